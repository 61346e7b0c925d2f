"""A run that goes on from a checkpoint: what it measured before stays, and its settings are the present ones."""

import json
from dataclasses import replace

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers import Scripted
from runs import CONFIG, CURATION, fit, make_module, script, write_plain_images
from visplay.callbacks import SelfPlay, ValidationGain
from visplay.callbacks.evaluation import Evaluation
from visplay.callbacks.summary import Summary
from visplay.data.benchmarks.benchmark import Benchmark
from visplay.data.module import SelfPlayData
from visplay.types import Example

METRIC = "val/mine/rule_accuracy"


class Validated(SelfPlayData):
    """Three questions of which iteration i answers i: the accuracy tells the iteration."""

    def benchmarks(self, stage="test"):
        image = self.images[1].image
        return [Benchmark("mine", [Example(str(n), image, f"Is it past {n}?", "yes") for n in range(3)])]


class Learning(Scripted):
    """Knows more with every phase of the Reasoner."""

    def sample(self, policy, prompts, sampling):
        self.script = self.script_of(policy.version // 2)
        return super().sample(policy, prompts, sampling)

    def script_of(self, phases):
        def say(policy, prompt, text, sample):
            for n in range(3):
                if f"Is it past {n}?" in text:
                    return f"\\boxed{{{'yes' if phases > n else 'no'}}}"
            return script(policy, prompt, text, sample)

        return say


def run(root, *, ckpt=None, iterations=2, config=CONFIG, metric=METRIC, **settings):
    keep = ModelCheckpoint(root / "ckpt", filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    summary = Summary({"score": metric})
    module, data = make_module(config), Validated(write_plain_images(root / "images"))
    if ckpt is not None:  # versions are those of the engine's policies, and begin anew with a process
        done = int(ckpt.stem.removeprefix("epoch=")) + 1
        module.questioner.vlm.version, module.reasoner.vlm.version = 2 * ((done + 1) // 2), 2 * (done // 2)
    self_play = SelfPlay(iterations, CURATION, settings.pop("advance", None), settings.pop("validate_every", 1))
    trainer, module, self_play = fit(
        root,
        module=module,
        data=data,
        engine=Learning(script),
        self_play=self_play,
        callbacks=[keep, summary, Evaluation(str(root / "evaluation"))],
        ckpt_path=ckpt,
        num_sanity_val_steps=-1,
        **{"logger": TensorBoardLogger(root, name="run")} | settings,
    )
    rows = json.loads(summary.path(trainer).read_text())
    return trainer, module, self_play, rows


def points(trainer):
    events = EventAccumulator(trainer.log_dir)
    events.Reload()
    tags = events.Tags()["scalars"]
    return {event.step: round(event.value, 3) for event in events.Scalars(METRIC)} if METRIC in tags else {}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    return root, *run(root)


def test_the_curve(whole):
    _, trainer, _, _, rows = whole
    assert [(row["iteration"], round(row["score"], 3)) for row in rows] == [(0, 0.0), (1, 0.333), (2, 0.667)]
    assert points(trainer) == {0: 0.0, 1: 0.333, 2: 0.667}


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_the_base_stays_the_base(whole, tmp_path, epoch, capsys):
    root, _, _, done, expected = whole
    trainer, _, self_play, rows = run(tmp_path, ckpt=root / "ckpt" / f"epoch={epoch}.ckpt")
    assert rows == expected
    assert 0 not in points(trainer)
    assert {2: 0.667}.items() <= points(trainer).items()
    assert self_play.scores == done.scores
    header = next(line for line in capsys.readouterr().out.splitlines() if "base" in line)
    assert header.split("base")[1].split("iteration")[1:] == header.split("iteration")[1:]  # base is the first column


def test_more_iterations_are_added(whole, tmp_path):
    root, _, _, _, expected = whole
    _, _, _, rows = run(tmp_path, ckpt=root / "ckpt" / "epoch=3.ckpt", iterations=3)
    assert rows[:3] == expected
    assert [(row["iteration"], row["score"]) for row in rows[3:]] == [(3, 1.0)]


def test_other_columns_stand_beside_those_before(whole, tmp_path, capsys):
    root, _, _, _, _ = whole
    _, _, _, rows = run(tmp_path, ckpt=root / "ckpt" / "epoch=1.ckpt", metric="val/mine/wrong_claims")
    assert [row["iteration"] for row in rows] == [0, 1, 2]
    assert "score" in capsys.readouterr().out


def test_an_advance_rule_is_told_what_it_was_told_before(tmp_path):
    def rule(told):
        rule = ValidationGain(METRIC, least=-1.0)
        decide, rule.decide = rule.decide, lambda report: told.append(report.scores_before) or decide(report)
        return rule

    undisturbed, told = [], []
    run(tmp_path / "a", validate_every=2, advance=rule(undisturbed))
    run(tmp_path / "b", validate_every=2, advance=rule(told), ckpt=tmp_path / "a" / "ckpt" / "epoch=1.ckpt")
    assert told == undisturbed[2:]


@pytest.mark.parametrize("epoch", [0, 1])
def test_the_settings_of_an_optimizer_are_the_present_ones(whole, tmp_path, epoch):
    root, _, trained, _, _ = whole
    ckpt = root / "ckpt" / f"epoch={epoch}.ckpt"
    changed = replace(CONFIG, learning_rate=1e-12, betas=(0.5, 0.6), weight_decay=0.3)
    trainer, module, _, _ = run(tmp_path, ckpt=ckpt, config=changed)
    for optimizer in trainer.optimizers:
        (group,) = optimizer.param_groups
        assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-12, (0.5, 0.6), 0.3)
    before = torch.load(ckpt, weights_only=True)["state_dict"]
    for name, weight in module.state_dict().items():
        assert torch.allclose(weight, before[name], atol=1e-9), name
    assert any(not torch.equal(weight, before[name]) for name, weight in trained.state_dict().items())


def test_weights_of_another_model_are_rejected_by_name(whole, tmp_path):
    root, *_ = whole
    state = torch.load(root / "ckpt" / "epoch=1.ckpt", weights_only=True)
    name = next(iter(state["state_dict"]))
    shape = tuple(state["state_dict"][name].shape)
    state["state_dict"][name] = torch.zeros(3)
    torch.save(state, tmp_path / "epoch=1.ckpt")
    with pytest.raises(ValueError, match=r"ckpt_path: 1 weights .* '" + name + r"': \(3,\) in the checkpoint and \("):
        run(tmp_path, ckpt=tmp_path / "epoch=1.ckpt")
    assert shape != (3,)
