"""Phases that are repeated, end the run, or belong to one role alone."""

from dataclasses import replace

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from helpers import Scripted, image_number, plain_image
from runs import CONFIG, CURATION, STEPS, N, fit, make_module, make_trainer, script, write_plain_images
from visplay.callbacks import RewardGain, SelfPlay, ValidationGain
from visplay.callbacks.iterations.advance import AdvanceRule
from visplay.data.benchmarks.benchmark import Benchmark
from visplay.data.generated import read_examples, write_examples
from visplay.data.module import SelfPlayData
from visplay.modules import Questioner, QuestionFormat, Qwen2_5_VL, Reasoner, VisPlay, Voting
from visplay.tiny import ANSWER, ASK, BASE
from visplay.types import Example


class Script(AdvanceRule):
    """Follows a list of decisions, and notes what it was told."""

    def __init__(self, *decisions):
        super().__init__()
        self.decisions, self.reports = list(decisions), []

    def measure(self, report):
        return 0.0

    def decide(self, report):
        self.reports.append(report)
        return self.decisions.pop(0) if self.decisions else "advance"


@pytest.fixture
def phases(monkeypatch):
    """Notes iteration, role, attempt and keys of every step."""
    seen, step = [], VisPlay.training_step

    def training_step(module, batch, batch_idx):
        seen.append((module.phase.iteration, module.phase.role[0], module.phase.attempt, [item.key for item in batch]))
        return step(module, batch, batch_idx)

    monkeypatch.setattr(VisPlay, "training_step", training_step)
    return seen


def test_a_phase_is_repeated_with_further_images(tmp_path, phases):
    rule = Script("repeat", "advance", "repeat")
    _, module, self_play = fit(tmp_path, self_play=SelfPlay(2, CURATION, rule))
    order = [(i, role, attempt) for i, role, attempt, _ in phases][::STEPS]
    assert order == [(1, "q", 0), (1, "q", 1), (1, "r", 0), (1, "r", 1), (2, "q", 0), (2, "r", 0)]
    first, again = ([k for *what, keys in phases if what == [1, "q", a] for k in keys] for a in (0, 1))
    assert not set(first) & set(again[: 10 - len(first)])
    assert module.questioner.vlm.version == module.reasoner.vlm.version == 3 * STEPS
    assert self_play.phase.steps_before == {"questioner": 3 * STEPS, "reasoner": 3 * STEPS}
    stages = sorted(path.stem for path in (tmp_path / "run" / "version_0" / "generated").glob("*.parquet"))
    assert stages == ["iteration-1", "iteration-1-repeat-1", "iteration-2"]
    assert [len(report.history) for report in rule.reports] == [STEPS] * 6
    assert {"reward", "policy_loss"} <= set(rule.reports[0].history[0])


def test_a_phase_can_end_the_run(tmp_path, phases, caplog):
    _, _, self_play = fit(tmp_path, self_play=SelfPlay(3, CURATION, RewardGain(least=1e9, otherwise="stop")))
    assert len(phases) == STEPS
    assert self_play.ended
    assert "RewardGain is" in caplog.text


def test_a_repeated_phase_is_resumed(tmp_path, phases):
    def run(root, ckpt=None):
        keep = ModelCheckpoint(root / "ckpt", filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
        self_play = SelfPlay(1, CURATION, Script("repeat") if ckpt is None else Script("advance"))
        return fit(root, self_play=self_play, callbacks=[keep], ckpt_path=ckpt)

    _, expected, _ = run(tmp_path / "a")
    whole = phases.copy()
    phases.clear()
    _, module, _ = run(tmp_path / "b", tmp_path / "a" / "ckpt" / "epoch=0.ckpt")
    assert phases == whole[STEPS:]
    for (name, weight), other in zip(expected.state_dict().items(), module.state_dict().values(), strict=True):
        assert torch.equal(weight, other), name


class Validated(SelfPlayData):
    def benchmarks(self, stage="test"):
        return [Benchmark("mine", [Example("a", image, "What is 1?", "1") for image in [self.images[1].image]])]


def test_validation_follows_the_reasoner_and_a_rule_may_ask_for_it(tmp_path):
    rule = ValidationGain("val/mine/rule_accuracy", least=-1.0)
    scores = []
    decide, rule.decide = rule.decide, lambda report: scores.append(report.scores) or decide(report)
    data = Validated(write_plain_images(tmp_path / "images"))
    trainer, module, _ = fit(tmp_path, data=data, self_play=SelfPlay(2, CURATION, rule), num_sanity_val_steps=-1)
    assert [set(s) for s in scores] == [set(), {"val/mine/rule_accuracy", "val/mine/wrong_claims"}] * 2
    lines = (tmp_path / "run" / "version_0" / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("val/mine/rule_accuracy")
    assert sum(bool(line.split(",")[column]) for line in lines[1:]) == 3  # the base and two iterations


def _vlm():
    return Qwen2_5_VL(str(BASE))


def _labelled(path, n=6):
    images = write_plain_images(path.parent / "images", n)
    images = SelfPlayData(images)
    images.setup("fit")
    items = [images.images[i] for i in range(n)]
    rows = [Example(f"g{image_number(i.image)}", i.image, f"What is {image_number(i.image)}?", "wrong") for i in items]
    write_examples(path, rows)
    return path


def _reasoner(**data):
    reasoner = Reasoner(CONFIG, ANSWER, vlm=_vlm(), seed=3)
    return reasoner, SelfPlayData(**data)


def _keys(module_class, monkeypatch):
    seen, step = [], module_class.training_step
    monkeypatch.setattr(
        module_class, "training_step", lambda m, b, i: (seen.extend(item.key for item in b), step(m, b, i))[1]
    )
    return seen


def test_a_reasoner_alone_learns_from_labels(tmp_path, monkeypatch):
    seen = _keys(Reasoner, monkeypatch)
    reasoner, data = _reasoner(labelled=_labelled(tmp_path / "gold.parquet"))
    _, _, self_play = fit(tmp_path, module=reasoner, data=data, self_play=SelfPlay(2))
    assert len(seen) == 2 * STEPS * N
    assert len(set(seen[:6])) == 6, "every row before any repeats"
    assert reasoner.vlm.version == 2 * STEPS
    assert self_play.phase.positions == {"labelled": 2 * STEPS * N}
    assert reasoner.result.statistics["reward"] == 0.5  # every second scripted answer is "wrong", the label here
    assert (self_play.phase.iteration, self_play.phase.role) == (3, "reasoner")


def test_a_questioner_alone_cannot_be_validated(tmp_path):
    judge = Reasoner(CONFIG, ANSWER, vlm=_vlm())
    questioner = Questioner(CONFIG, ASK, reasoner=judge, vlm=_vlm())
    data = Validated(write_plain_images(tmp_path / "images"))
    data.benchmarks = lambda stage: [Benchmark("mine", [Example("a", plain_image(1), "What is 1?", "1")])]
    trainer = make_trainer(tmp_path, Scripted(script), SelfPlay(1))
    with pytest.raises(ValueError, match="validate: a Questioner alone does not answer"):
        trainer.validate(questioner, datamodule=data)


def test_labels_are_mixed_with_silver_answers_in_the_given_fraction(tmp_path, monkeypatch):
    seen = _keys(Reasoner, monkeypatch)
    silver = _labelled(tmp_path / "silver.parquet", 4)
    rows = [replace(row, key="s" + row.key, votes=(("wrong", 2), ("x", 2)), score=0.5) for row in read_examples(silver)]
    write_examples(silver, rows)
    reasoner, data = _reasoner(labelled=_labelled(tmp_path / "gold.parquet"), silver=silver, silver_fraction=1 / 3)
    fit(tmp_path, module=reasoner, data=data)
    assert [sum(key.startswith("s") for key in seen[start : start + N]) for start in range(0, STEPS * N, N)] == [1, 1]


def test_self_play_may_mix_labels_in(tmp_path, phases):
    data = SelfPlayData(write_plain_images(tmp_path / "images"), labelled=_labelled(tmp_path / "gold.parquet"))
    fit(tmp_path, data=data)
    learned = [key for _, role, _, keys in phases if role == "r" for key in keys]
    assert sum(key.startswith("g") for key in learned) == len(learned) / 2


def test_a_questioner_alone_learns_against_a_frozen_reasoner(tmp_path):
    judge = Reasoner(CONFIG, ANSWER, Voting(votes=4), vlm=_vlm())
    questioner = Questioner(CONFIG, ASK, QuestionFormat(kinds=None), reasoner=judge, vlm=_vlm())
    engine = Scripted(script)
    trainer, _, self_play = fit(tmp_path, module=questioner, engine=engine, self_play=SelfPlay(2))
    assert questioner.vlm.version == 2 * STEPS
    assert (judge.vlm.version, any(p.requires_grad for p in judge.parameters())) == (0, False)
    assert {(name, version) for name, version, _ in engine.calls if name == "reasoner"} == {("reasoner", 0)}
    assert self_play.dataset is None
    assert self_play.phase.positions == {"images": 2 * STEPS * N}
    assert {p for g in trainer.optimizers[0].param_groups for p in g["params"]} == set(questioner.vlm.parameters())


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (lambda: Reasoner(CONFIG, ANSWER), "vlm: a Reasoner that is fitted alone needs a model"),
        (lambda: Questioner(CONFIG, ASK, vlm=_vlm()), "reasoner: a Questioner that is fitted alone needs a Reasoner"),
        (lambda: Reasoner(CONFIG, ANSWER, vlm=_vlm()), "labelled, silver: a Reasoner that is fitted alone needs one"),
    ],
)
def test_what_a_role_alone_lacks(tmp_path, module, message):
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, module=module())


def test_iterations_between_two_validations_are_not_judged_by_the_last_one(tmp_path):
    rule = ValidationGain("val/mine/rule_accuracy", least=0.0)
    data = Validated(write_plain_images(tmp_path / "images"))
    self_play = SelfPlay(2, CURATION, rule, validate_every=2)
    fit(tmp_path, data=data, self_play=self_play, num_sanity_val_steps=-1)
    # nothing is gained, and only the second iteration is validated: it alone is repeated
    assert self_play.repeats == 1
    assert self_play.phases_done == 5


def test_self_play_needs_images(tmp_path):
    with pytest.raises(ValueError, match="images: a Questioner asks about unlabeled images"):
        fit(tmp_path, module=make_module(), data=SelfPlayData())
    silver = _labelled(tmp_path / "silver.parquet")
    with pytest.raises(ValueError, match="silver: self-play generates its own data set, got .*silver.parquet"):
        fit(tmp_path, data=SelfPlayData(write_plain_images(tmp_path / "images"), silver=silver))
    with pytest.raises(ValueError, match=r"silver_fraction: must lie in \[0, 1\], got 2"):
        SelfPlayData(silver_fraction=2)


def test_a_phase_whose_rewards_are_all_equal_says_so(tmp_path, caplog):
    """Labels that no completion agrees with: three of its completions and the label are shown."""
    reasoner = Reasoner(replace(CONFIG, group_size=4), ANSWER, vlm=_vlm())
    data = SelfPlayData(labelled=_labelled(tmp_path / "gold.parquet"))
    engine = Scripted(lambda policy, prompt, text, sample: f"I say \\boxed{{{sample}}}")
    fit(tmp_path, module=reasoner, data=data, engine=engine, self_play=SelfPlay(2))
    said = [record.getMessage() for record in caplog.records if "rewards of every group" in record.getMessage()]
    assert [line.partition(":")[0] for line in said] == ["iteration 1, reasoner", "iteration 2, reasoner"]
    assert f"in each of the first {STEPS} steps" in said[0]
    assert "gold answer 'wrong', rewards of 0, completions ['I say" in said[0]
    assert [f"boxed{{{sample}}}" in said[0] for sample in range(4)] == [True, True, True, False]


def test_a_phase_with_a_step_to_learn_from_says_nothing(tmp_path, caplog):
    reasoner, data = _reasoner(labelled=_labelled(tmp_path / "gold.parquet"))
    fit(tmp_path, module=reasoner, data=data, self_play=SelfPlay(2))
    assert "rewards of every group" not in caplog.text


@pytest.mark.parametrize("epochs", [0, 3])
def test_the_loop_sets_what_it_needs_of_the_trainer(tmp_path, phases, epochs):
    settings = {"reload_dataloaders_every_n_epochs": epochs, "max_epochs": 7, "check_val_every_n_epoch": 5}
    _, module, self_play = fit(tmp_path, self_play=SelfPlay(2, CURATION), **settings)
    assert [role for _, role, *_ in phases] == ["q"] * STEPS + ["r"] * STEPS + ["q"] * STEPS + ["r"] * STEPS
    assert module.questioner.vlm.version == module.reasoner.vlm.version == 2 * STEPS
    assert self_play.dataset is not None


@pytest.mark.parametrize(
    ("setting", "value"), [("limit_train_batches", 0), ("overfit_batches", 2), ("val_check_interval", 2)]
)
def test_what_leaves_no_phases_is_rejected(tmp_path, setting, value):
    with pytest.raises(ValueError, match=rf"trainer\.{setting}: {value}.* leaves no whole phases"):
        fit(tmp_path, **{setting: value})
