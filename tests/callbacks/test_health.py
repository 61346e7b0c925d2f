"""Rules on what a run measures: what they say, when a phase ends, and which policy is kept."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from helpers import Scripted, plain_image
from runs import CONFIG, CURATION, fit, make_module, script, write_plain_images
from visplay.callbacks import Diagnostics, Health, Limit, SelfPlay
from visplay.data.benchmarks.benchmark import Benchmark
from visplay.data.module import SelfPlayData
from visplay.modules import LoRA, Questioner, QuestionFormat, Qwen2_5_VL, Reasoner, Tuning, VisPlay, Voting
from visplay.tiny import ANSWER, ASK, BASE
from visplay.types import Example

PROBE = "val/mine/rule_accuracy"
END = "end_phase"
FIVE = replace(CONFIG, steps=5)


def _step(health, role, step, curated=(), first=None, **statistics):
    """Tell of one step; what is logged is the answer."""
    result = SimpleNamespace(statistics=statistics, judgement=SimpleNamespace(statistics={}))
    phase = SimpleNamespace(iteration=2, role=role, step=step)
    learns_from = "images" if role == "questioner" else "examples"
    config = SimpleNamespace(steps=9)
    module = SimpleNamespace(
        phase=phase,
        result=result,
        validated=None,
        role=SimpleNamespace(learns_from=learns_from, config=config),
    )
    health._self_play = SimpleNamespace(statistics=dict(curated), validate_every=1, scores={})
    if step == 1:
        health.on_train_epoch_start(None, module)
    health.on_train_batch_start(None, module, None, step - 1)
    health.on_train_batch_end(None, module, None, None, step - 1)


@pytest.mark.parametrize(
    ("rule", "role", "metric", "good", "bad", "message"),
    [
        ("vote_margin", "questioner", "vote_margin", 0.3, 0.1, "vote_margin is 0.1, below its limit 0.2: the majority"),
        ("parsed_fraction", "questioner", "parsed_fraction", 0.2, 0.1, "parsed_fraction is 0.1, below its limit 0.2"),
        ("parsed_fraction", "reasoner", "parsed_fraction", 0.2, 0.1, "lose the form that the prompt asks for"),
        (
            "duplicate_fraction",
            "questioner",
            "repeated_fraction",
            0.2,
            0.3,
            "duplicate_fraction is 0.3, above its limit",
        ),
        (
            "entropy",
            "reasoner",
            "entropy",
            0.3,
            0.1,
            "entropy is 0.1, below its limit 0.2: the policy is nearly determ",
        ),
    ],
)
def test_a_window_of_steps(caplog, rule, role, metric, good, bad, message):
    health = Health(window=2, **{rule: Limit(0.2)})
    _step(health, role, 1, **{metric: bad})  # one step is no window
    _step(health, role, 2, **{metric: good + (good - bad)})
    assert not caplog.text
    _step(health, role, 3, **{metric: 2 * bad - (2 * good - bad)})
    assert f"iteration 2, {role}, step 3: " in caplog.text
    assert message in caplog.text
    assert "The phase ends" not in caplog.text
    _step(health, role, 4, **{metric: bad})
    assert caplog.text.count("docs/health.md") == 1  # once in a phase


@pytest.mark.parametrize(
    ("rule", "metric", "good", "bad"),
    [
        ("vote_margin", "vote_margin", 0.2, 0.1),
        ("duplicate_fraction", "duplicate_fraction", 0.2, 0.3),
        ("blind_fraction", "answerable_without_image_fraction", 0.2, 0.3),
    ],
)
def test_the_data_set_is_looked_at_from_the_first_step_of_its_own_phase(caplog, rule, metric, good, bad):
    health = Health(window=5, **{rule: Limit(0.2)})
    _step(health, "reasoner", 1, {metric: good})
    _step(health, "questioner", 1, {metric: bad})  # that of the iteration before
    assert not caplog.text
    _step(health, "reasoner", 1, {metric: bad})
    assert f"step 1: {rule} is {bad}" in caplog.text


def test_difficulty_drifts_from_that_of_the_first_window_of_the_run(caplog):
    health = Health(window=2, difficulty_drift=Limit(0.2))
    for step, difficulty in enumerate((0.3, 0.5, 0.6), 1):
        _step(health, "questioner", step, difficulty=difficulty)
    assert health.first_difficulty == pytest.approx(0.4)
    again = Health(window=2, difficulty_drift=Limit(0.2))
    again.load_state_dict(health.state_dict())
    _step(again, "questioner", 1, difficulty=0.1)
    _step(again, "reasoner", 1, entropy=1.0)
    _step(again, "questioner", 1, difficulty=0.1)
    assert not caplog.text
    _step(again, "questioner", 2, difficulty=0.1)
    assert "difficulty_drift is 0.3, above its limit 0.2" in caplog.text


def test_a_step_without_the_metric_or_with_one_that_is_not_finite_is_no_measurement(caplog):
    health = Health(window=1, entropy=Limit(0.2))
    _step(health, "reasoner", 1, reward=1.0)
    _step(health, "reasoner", 2, entropy=math.nan)
    assert not caplog.text


class Noted(SelfPlay):
    """Notes the weights that sample each step of the Questioner, and those its phase ends with."""

    def on_train_epoch_start(self, trainer, pl_module):
        super().on_train_epoch_start(trainer, pl_module)
        self.sampling = [] if pl_module.phase.role == "questioner" else self.sampling

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if pl_module.phase.role == "questioner":
            self.sampling.append([w.detach().clone() for w in pl_module.questioner.vlm.trained_weights()])


def _scripted(module, role, **columns):
    """Have the steps of a role measure these values."""
    learner = module.roles[role].learner
    inner, told = learner.step, []

    def step(*args):
        result = inner(*args)
        told.append({name: values[len(told)] for name, values in columns.items()})
        return result._replace(statistics=result.statistics | told[-1])

    learner.step = step
    return module


def _lora_module(config):
    vlm = Qwen2_5_VL(str(BASE), tuning=Tuning(["vision_tower"], LoRA(rank=2, alpha=4)))
    questioner = Questioner(config, ASK, QuestionFormat(kinds=None))
    return VisPlay(vlm, questioner, Reasoner(config, ANSWER, Voting(votes=4)), 0)


@pytest.mark.parametrize("make", [make_module, _lora_module])
@pytest.mark.parametrize(
    ("window", "entropies", "ends", "kept"),
    [
        (1, [1.0, 1.0, 0.0, 1.0, 1.0], 3, 1),  # the second step's policy was the last good one
        (1, [0.0, 1.0, 1.0, 1.0, 1.0], 1, 0),
        (2, [1.0, 1.0, 1.0, 0.5, 0.3], 5, 3),
        (3, [0.0, 0.0, 0.0, 1.0, 1.0], 3, 0),  # no window was good: that of the start
        (1, [1.0, 1.0, 1.0, 1.0, 1.0], 5, None),
    ],
)
def test_a_phase_ends_early_with_its_last_good_policy(tmp_path, caplog, make, window, entropies, ends, kept):
    module = _scripted(make(FIVE), "questioner", entropy=entropies)
    _scripted(module, "reasoner", entropy=[1.0] * 5)
    self_play = Noted(1, CURATION)
    health = Health(window, entropy=Limit(0.5, END))
    _, module, _ = fit(tmp_path, module=module, self_play=self_play, callbacks=[health], enable_checkpointing=False)
    assert len(self_play.sampling) == ends
    assert self_play.phase.steps_before == {"questioner": ends, "reasoner": 5}
    assert module.questioner.vlm.version == ends + (kept is not None)  # an engine loads the weights again
    last = module.questioner.vlm.trained_weights()
    for number, weights in enumerate(self_play.sampling):
        assert all(map(torch.equal, weights, last)) == (number == kept)
    assert ("The phase ends, and its last good policy is kept" in caplog.text) == (kept is not None)
    assert health._good is None


def test_only_what_learns_is_copied(tmp_path, monkeypatch):
    copies, inner = [], Qwen2_5_VL.trained_weights

    class Watched(Health):
        def on_train_batch_end(self, trainer, pl_module, *rest):
            super().on_train_batch_end(trainer, pl_module, *rest)
            copies.append((pl_module.phase.role, self._good))

    module = _lora_module(CONFIG)
    fit(tmp_path, module=module, callbacks=[Watched(difficulty_drift=Limit(1.0, END))], enable_checkpointing=False)
    assert [len(good) if good else None for _, good in copies] == [len(inner(module.questioner.vlm))] * 2 + [None] * 2
    assert all(weight.numel() < 2000 for weight in copies[0][1])


def test_rules_that_warn_change_nothing_and_copy_nothing(tmp_path, monkeypatch, caplog):
    _, plain, _ = fit(tmp_path / "a")
    monkeypatch.setattr("visplay.callbacks.health.copy_weights", None)
    health = Health(1, entropy=Limit(99.0), parsed_fraction=Limit(0.9), vote_margin=Limit(0.9))
    _, watched, self_play = fit(tmp_path / "b", callbacks=[health], enable_checkpointing=False)
    for (name, weight), other in zip(plain.state_dict().items(), watched.state_dict().values(), strict=True):
        assert torch.equal(weight, other), name
    assert self_play.phase.steps_before == {"questioner": 2, "reasoner": 2}
    told = {
        (f"{role}, step 1: {rule} is") in caplog.text for role in plain.roles for rule in ("entropy", "vote_margin")
    }
    assert told == {True}


class Validated(SelfPlayData):
    """Validates on one question, whose scores a test makes up."""

    def benchmarks(self, stage="test"):
        return [Benchmark("mine", [Example("e", plain_image(3), "What is 3?", "3")])]


def _validated(module, accuracies):
    """The scores of each validation, the base's first."""
    left = list(accuracies)

    def score():
        module.scores = {PROBE: left.pop(0)}

    module.on_validation_epoch_end = score
    return module


@pytest.mark.parametrize(
    ("action", "accuracies", "restored"),
    [
        (END, [0.5, 0.7, 0.65], False),  # not more than 0.1 below the best
        (END, [0.5, 0.7, 0.5], True),
        ("warn", [0.5, 0.7, 0.5], False),
    ],
)
def test_the_probe_keeps_the_policy_that_was_validated(tmp_path, caplog, action, accuracies, restored):
    ended = []

    class Noted(SelfPlay):
        def on_train_epoch_end(self, trainer, pl_module):
            super().on_train_epoch_end(trainer, pl_module)
            ended.append([w.detach().clone() for w in pl_module.reasoner.vlm.trained_weights()])

    health = Health(1, probe=Limit(0.1, action), probe_metric=PROBE)
    _, module, self_play = fit(
        tmp_path,
        module=_validated(make_module(), accuracies),
        data=Validated(write_plain_images(tmp_path / "images")),
        self_play=Noted(2, CURATION),
        callbacks=[health],
        num_sanity_val_steps=-1,
        enable_checkpointing=False,
    )
    assert health.best == 0.7
    assert all(map(torch.equal, ended[1], ended[3])) == restored
    assert module.reasoner.vlm.version == 4 + restored
    assert self_play.scores == {PROBE: 0.7 if restored else accuracies[-1]}
    message = f"iteration 2, reasoner, step 2: {PROBE} is 0.5, more than 0.1 below the best so far, 0.7: the Reasoner"
    assert (message in caplog.text) == (accuracies[-1] == 0.5)


def test_a_phase_that_ends_early_is_validated(tmp_path):
    module = _validated(_scripted(make_module(FIVE), "reasoner", entropy=[0.0] * 5), [0.5, 0.5])
    data = Validated(write_plain_images(tmp_path / "images"))
    health = Health(1, entropy=Limit(0.1, END))
    _, _, self_play = fit(
        tmp_path, module=module, data=data, callbacks=[health], num_sanity_val_steps=-1, enable_checkpointing=False
    )
    assert self_play.phase.steps_before["reasoner"] == 1
    assert self_play.scores == {PROBE: 0.5}


def test_what_is_watched_must_be_measured(tmp_path):
    data = Validated(write_plain_images(tmp_path / "images"))
    health = Health(probe=Limit(0.1), probe_metric="val/other")
    with pytest.raises(ValueError, match=r"probe_metric: 'val/other' is not measured; validation gave \['val/mine"):
        fit(tmp_path, data=data, callbacks=[health], num_sanity_val_steps=-1, enable_checkpointing=False)
    with pytest.raises(ValueError, match="blind_fraction: needs the callback Diagnostics with blind_questions above 0"):
        fit(tmp_path, callbacks=[Health(blind_fraction=Limit(0.5))], enable_checkpointing=False)


def test_questions_that_need_no_image_end_the_phase_with_its_first_step(tmp_path):
    def blind(policy, prompt, text, sample):
        return (
            script(policy, prompt, text, sample)
            if prompt.images
            else f"\\boxed{{{text.split('is ')[1].split('?')[0]}}}"
        )

    callbacks = [Diagnostics(0, blind_questions=9), Health(5, blind_fraction=Limit(0.9, END))]
    before = make_module()
    _, module, self_play = fit(
        tmp_path, engine=Scripted(blind), module=before, callbacks=callbacks, enable_checkpointing=False
    )
    assert self_play.statistics["answerable_without_image_fraction"] == 1.0
    assert self_play.phase.steps_before == {"questioner": 2, "reasoner": 1}
    fresh = Qwen2_5_VL(str(BASE))
    fresh.load()
    assert module.reasoner.vlm.fingerprint() == fresh.fingerprint()


def test_bad_settings():
    with pytest.raises(ValueError, match="limit: -1 must be a finite number, at least 0"):
        Limit(-1)
    with pytest.raises(ValueError, match="action: must be 'warn' or 'end_phase', got 'stop'"):
        Limit(0.5, "stop")
    with pytest.raises(ValueError, match="window: 0 must be at least 1"):
        Health(0)
    with pytest.raises(ValueError, match="parsed_fraction: limit 50 must be between 0 and 1"):
        Health(parsed_fraction=Limit(50))
    with pytest.raises(ValueError, match="probe, probe_metric: give both or none, got None and 'val/x'"):
        Health(probe_metric="val/x")
