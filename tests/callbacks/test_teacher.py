"""A slow copy of the Reasoner: how it moves, on what it votes, and that a run goes on with the one it had."""

import json
from math import cos, pi
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning import Callback

from callbacks.test_adapters_in_a_run import ADAPTERS
from callbacks.test_adapters_in_a_run import make_module as make_adapted
from helpers import Scripted, plain_image
from runs import CONFIG, CURATION, STEPS, fit, make_module, script
from visplay.callbacks import Curation, Recorder, SelfPlay, StepCheckpoint, Teacher, TransformersRollout
from visplay.callbacks.teacher import follow
from visplay.cli import instantiate
from visplay.data.module import SelfPlayData
from visplay.modules import VLM, Qwen2_5_VL, Reasoner, Tuning
from visplay.tiny import ANSWER, BASE
from visplay.tiny.self_play_images import write_images
from visplay.types import Sampling


def _weights(policy):
    return {name: weight.detach().clone() for name, weight in policy.named_weights()}


def _same(one, other):
    return all(torch.equal(weight, other[name]) for name, weight in one.items())


@pytest.mark.parametrize("tuning", [Tuning(), ADAPTERS], ids=["whole", "adapter"])
def test_a_teacher_moves_by_a_fraction_of_the_way(tuning):
    policy = Qwen2_5_VL(str(BASE), tuning=tuning)
    policy.load()
    teacher, before = policy.frozen_copy(), _weights(policy)
    moves = {name: torch.full_like(weight, 0.5) for name, weight in before.items()}
    with torch.no_grad():
        for weight in policy.trained_weights():
            weight.add_(0.5)
    after = _weights(policy)
    follow(teacher, policy, 0.25)
    for name, weight in _weights(teacher).items():
        moved = 0.25 * moves[name] if not torch.equal(after[name], before[name]) else 0.0
        torch.testing.assert_close(weight, before[name] + moved, rtol=0, atol=1e-6)
    assert _same(after, _weights(policy))
    follow(teacher, policy, 1.0)
    assert _same(after, _weights(teacher))
    assert not any(weight.requires_grad for weight in teacher.parameters() if tuning.lora is None)


def test_a_rate_falls_along_half_a_cosine():
    teacher = Teacher(0.01, 1e-5)
    expected = [1e-5 + 0.5 * (0.01 - 1e-5) * (1 + cos(pi * t / 8)) for t in range(9)]
    assert [teacher.rate_at(t / 8) for t in range(9)] == pytest.approx(expected)
    assert (expected[0], expected[8]) == (0.01, 1e-5)
    assert [Teacher(0.3).rate_at(t) for t in (0.0, 0.5, 2.0)] == [0.3] * 3


class Watch(Callback):
    """Notes the Reasoner and the teacher: as each phase begins, and after each step."""

    def __init__(self):
        self.began, self.steps = [], []

    def _note(self, module):
        return module.phase.role, _weights(module.reasoner.vlm), _weights(module.teacher)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0:
            self.began.append(self._note(pl_module))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append(self._note(pl_module))


def _fit(root, teacher, *callbacks, iterations=2, module=None, **settings):
    given = {"engine": Scripted(script), "self_play": SelfPlay(iterations, CURATION)} | settings
    return fit(root, module=module or make_module(), callbacks=[teacher, *callbacks], **given)


def test_a_teacher_follows_each_step_of_the_reasoner(tmp_path, base):
    watch, teacher = Watch(), Teacher(0.5, 0.25)
    _, module, _ = _fit(tmp_path, teacher, watch, enable_checkpointing=False)
    expected, moved = _weights(base), 0
    for step, (role, policy, found) in enumerate(watch.steps):
        if role == "reasoner":  # of 4 phases with 2 steps each
            rate = teacher.rate_at(step / 8)
            expected = {name: weight.lerp(policy[name], rate) for name, weight in expected.items()}
            moved += 1
        assert _same(expected, found)
    assert module.teacher.version == moved == 2 * STEPS
    assert module.teacher.name == "teacher"
    assert not _same(expected, _weights(module.reasoner.vlm))
    assert not any(name.startswith("teacher") for name, _ in module.named_parameters())


def test_a_teacher_may_be_the_reasoner_of_one_phase_before(tmp_path, base):
    watch = Watch()
    _fit(tmp_path, Teacher(1.0, every="phase"), watch, enable_checkpointing=False)
    starts = [policy for role, policy, _ in watch.began if role == "reasoner"]
    taught = [teacher for _, _, teacher in watch.began]
    assert _same(taught[0], _weights(base))
    assert _same(taught[1], starts[0])  # moved once the data set was made, which the base labelled
    assert _same(taught[2], starts[0])
    assert _same(taught[3], starts[1])
    assert not _same(starts[0], starts[1])


@pytest.mark.parametrize("tuning", [Tuning(), ADAPTERS], ids=["whole", "adapter"])
def test_a_teacher_may_be_the_base(tmp_path, base, tuning):
    teacher = Teacher(0.0)
    trainer, module, _ = _fit(tmp_path, teacher, module=make_adapted(tuning), iterations=1)
    assert module.teacher.version == 0
    assert module.teacher.fingerprint() == base.fingerprint() != module.reasoner.vlm.fingerprint()
    (path,) = Path(trainer.log_dir).glob("checkpoints/*.ckpt")
    state = torch.load(path, weights_only=True)["callbacks"][teacher.state_key]
    assert state == {"version": 0, "followed": STEPS, "weights": None}


@pytest.mark.parametrize("votes", [[], ["rewards"], ["labels"], ["rewards", "labels"]])
def test_who_votes_on_what(tmp_path, votes):
    engine, answered = Scripted(script), []

    class Phases(SelfPlay):
        def begin_phase(self, trainer, module):
            engine.calls.clear()
            super().begin_phase(trainer, module)
            if module.phase.role == "reasoner":
                answered.append(("labels", {name for name, *_ in engine.calls} - {"questioner"}))

        def on_train_epoch_end(self, trainer, pl_module):
            if pl_module.phase.role == "questioner":
                answered.append(("rewards", {name for name, *_ in engine.calls} - {"questioner"}))
            super().on_train_epoch_end(trainer, pl_module)

    settings = {"engine": engine, "self_play": Phases(2, CURATION), "enable_checkpointing": False}
    trainer, module, _ = _fit(tmp_path, Teacher(0.5, votes=votes), **settings)
    expected = {what: {"teacher" if what in votes else "reasoner"} for what in ("rewards", "labels")}
    assert answered == [(what, expected[what]) for _ in range(2) for what in ("rewards", "labels")]
    manifest = json.loads((Path(trainer.log_dir) / "manifest.json").read_text())
    facts = [manifest[f"iteration-{n}"]["made_by"]["teacher"] for n in (1, 2)]
    assert [each["labels"] for each in facts] == ["labels" in votes] * 2
    assert facts[0]["weights"] != facts[1]["weights"]


@pytest.mark.parametrize(("every", "tuning"), [("step", Tuning()), ("phase", ADAPTERS)], ids=["whole", "adapter"])
def test_a_run_continued_has_the_teacher_that_it_had(tmp_path, every, tuning):
    """With a rate that falls."""

    def run(root, ckpt=None):
        watch, keep = Watch(), StepCheckpoint(every_n_steps=1, keep=99)
        teacher = Teacher(0.5, 0.1, every, ["rewards", "labels"])
        done = _fit(root, teacher, watch, keep, module=make_adapted(tuning), ckpt_path=ckpt)
        return *done, watch

    trainer, whole, _, watched = run(tmp_path / "whole")
    found = sorted((Path(trainer.log_dir) / "checkpoints").glob("*-step-*.ckpt"))
    assert len(found) == 4 * STEPS
    for path in found[1:4]:  # after the first phase, within the second and after it
        _, again, _, watch = run(tmp_path / path.stem, path)
        left = len(watch.steps)
        for one, other in zip(watch.steps, watched.steps[-left:], strict=True):
            assert one[0] == other[0]
            assert _same(one[1], other[1])
            assert _same(one[2], other[2])
        assert again.teacher.fingerprint() == whole.teacher.fingerprint()
        assert again.teacher.version == whole.teacher.version > 0


def test_a_run_on_the_small_world_is_continued_bit_for_bit(tmp_path):
    curation = Curation(images=4, questions_per_image=2, low=0.0, high=1.0)

    def run(root, ckpt=None):
        keep = StepCheckpoint(every_n_steps=1, keep=99)
        data = SelfPlayData(write_images(root / "images", 12, seed=0))
        settings = {"data": data, "engine": TransformersRollout(), "self_play": SelfPlay(2, curation)}
        return _fit(root, Teacher(0.3), keep, ckpt_path=ckpt, **settings)

    trainer, whole, _ = run(tmp_path / "whole")
    path = Path(trainer.log_dir) / "checkpoints" / "phase-01-step-0001.ckpt"
    _, again, self_play = run(tmp_path / "again", path)
    for mine, theirs in ((again.reasoner.vlm, whole.reasoner.vlm), (again.teacher, whole.teacher)):
        assert _same(_weights(mine), _weights(theirs))
    assert self_play.statistics["kept"] > 0
    assert whole.teacher.fingerprint() != whole.reasoner.vlm.fingerprint()


@pytest.mark.parametrize("tuning", [Tuning(), ADAPTERS], ids=["whole", "adapter"])
def test_one_engine_loads_the_teacher_as_a_policy_of_its_own(tmp_path, tuning):
    """An engine that copies weights takes the teacher's, in each of the two batches of a data set, at its version."""
    loads = []

    class Copies(Scripted):
        def load_weights(self, policy):
            loads.append((policy.name, policy.version, {name: w.clone() for name, w in policy.weights()}))

    settings = {"module": make_adapted(tuning), "engine": Copies(script), "enable_checkpointing": False}
    _, module, _ = _fit(tmp_path, Teacher(0.5), **settings)
    taught = {version: weights for name, version, weights in loads if name == "teacher"}
    assert [version for name, version, _ in loads if name == "teacher"] == [0, 0, STEPS, STEPS]
    base, final = dict(module.reasoner.vlm.base().weights()), dict(module.reasoner.vlm.weights())
    assert all(weight.equal(base[name]) for name, weight in taught[0].items())
    assert not all(weight.equal(base[name]) for name, weight in taught[STEPS].items())
    assert not all(weight.equal(final[name]) for name, weight in taught[STEPS].items())


def test_a_teacher_waits_on_the_host(tmp_path, monkeypatch):
    moves = []
    monkeypatch.setattr("visplay.callbacks.self_play.move", lambda policy, device: moves.append((policy.name, device)))
    monkeypatch.setattr("visplay.callbacks.self_play.CPU", "host")
    _fit(tmp_path, Teacher(0.5), iterations=1, enable_checkpointing=False)
    assert moves.count(("teacher", "host")) == 2  # as each phase begins


def test_sampling_from_a_teacher_leaves_the_model_that_it_shares_in_training():
    policy = Qwen2_5_VL(str(BASE), tuning=ADAPTERS)
    policy.load()
    teacher, mode = policy.frozen_copy(), policy.model.training
    prompt = policy.encode("a", ANSWER, plain_image(1), question="How many?")
    TransformersRollout().generate(teacher, [prompt], Sampling(1, 2))
    assert policy.model.training == mode is True


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 1.5}, r"rate: must be in \[0, 1\], got 1.5"),
        ({"rate": 0.1, "final_rate": 0.2}, "final_rate: must be between 0 and rate=0.1, or null, got 0.2"),
        ({"every": "epoch"}, "every: must be 'step' or 'phase', got 'epoch'"),
        ({"votes": ["gold"]}, r"votes: some of \['rewards', 'labels'\], got \['gold'\]"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Teacher(**settings)


def test_what_has_no_teacher(tmp_path, monkeypatch):
    alone = Reasoner(CONFIG, ANSWER, vlm=Qwen2_5_VL(str(BASE)))
    with pytest.raises(ValueError, match="teacher: votes in self-play, a Reasoner alone has none; give null"):
        Teacher().setup(None, alone, "fit")
    trainer = SimpleNamespace(world_size=1, callbacks=[Teacher(votes=["rewards"])])
    with pytest.raises(ValueError, match="record: a step is recorded without its teacher"):
        Recorder([1]).setup(trainer, make_module(), "fit")
    monkeypatch.setattr(VLM, "sharded", True)
    with pytest.raises(ValueError, match=r"teacher: a copy of sharded weights cannot vote; give vlm.tuning.lora"):
        Teacher().on_fit_start(None, make_module())


def test_a_teacher_is_named_on_the_command_line():
    config = f"--config={Path(__file__).parent.parent.parent / 'configs' / 'tiny.yaml'}"
    given = ["--teacher=visplay.callbacks.Teacher", "--teacher.rate=0.01", "--teacher.final_rate=1e-5"]
    (teacher,) = (c for c in instantiate([config, *given]).callbacks if isinstance(c, Teacher))
    assert (teacher.rate, teacher.final_rate, teacher.every, [*teacher.votes]) == (0.01, 1e-5, "step", ["labels"])
    assert not any(isinstance(c, Teacher) for c in instantiate([config]).callbacks)
