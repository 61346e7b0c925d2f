import math
from dataclasses import replace

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from runs import CONFIG, CURATION, STEPS, fit, make_module
from visplay.callbacks import AdaptiveKL, Recorder, SelfPlay


class Watch(AdaptiveKL):
    """Notes the weight and the divergence of every update."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, *args):
        role, before = pl_module.role, pl_module.role.config.kl_weight
        super().on_train_batch_end(trainer, pl_module, *args)
        self.seen.append((role.name, before, pl_module.result.statistics["kl"], role.config.kl_weight))


def _keep(root):
    return ModelCheckpoint(root / "kept", filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)


def test_weights_follow_the_divergence_and_go_on_in_the_next_phase(tmp_path):
    watch = Watch(target=2.0, rate=0.5)
    config = replace(CONFIG, kl_weight=0.1, kl_reference="base")
    fit(tmp_path, module=make_module(config), self_play=SelfPlay(2, CURATION), callbacks=[watch, _keep(tmp_path)])
    for name in ("questioner", "reasoner"):
        steps = [step for step in watch.seen if step[0] == name]
        assert len(steps) == 2 * STEPS
        expected = 0.1
        for _, before, kl, after in steps:
            assert before == pytest.approx(expected)
            expected *= math.exp(0.5 * (kl - 2) / 2)
            assert after == pytest.approx(expected)
        assert len({kl for _, _, kl, _ in steps}) > 1
    lines = (tmp_path / "run" / "version_0" / "metrics.csv").read_text()
    assert "reasoner/kl_weight" in lines.splitlines()[0]


def test_a_run_continued_from_a_checkpoint_has_the_weights_of_an_undisturbed_one(tmp_path):
    config = replace(CONFIG, kl_weight=0.1, kl_reference="base")
    whole, again = Watch(target=2.0), Watch(target=2.0)
    for root, watch, path in (
        (tmp_path / "whole", whole, None),
        (tmp_path / "again", again, tmp_path / "whole" / "kept" / "epoch=1.ckpt"),
    ):
        keep = [watch, _keep(root)]
        fit(root, module=make_module(config), self_play=SelfPlay(2, CURATION), callbacks=keep, ckpt_path=path)
    assert again.seen == whole.seen[2 * STEPS :]
    assert again.weights == whole.weights != {"questioner": 0.1, "reasoner": 0.1}


@pytest.mark.parametrize("settings", [{"kl_weight": 0.0}, {"kl_reference": "old"}])
def test_without_a_reference_there_is_nothing_to_adapt(tmp_path, settings):
    module = make_module(replace(CONFIG, **settings))
    with pytest.raises(ValueError, match="questioner.grpo: kl_weight=.* leave no KL divergence to adapt a weight by"):
        fit(tmp_path, module=module, callbacks=[AdaptiveKL()])


def test_steps_are_not_recorded_that_could_not_be_done_again(tmp_path):
    with pytest.raises(ValueError, match="record: a step is recorded without its adapted KL weight"):
        fit(tmp_path, callbacks=[AdaptiveKL(), Recorder(steps=[1])])


@pytest.mark.parametrize("settings", [{"target": 0.0}, {"rate": -1.0}])
def test_what_is_no_controller(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}: must be positive, got"):
        AdaptiveKL(**settings)
