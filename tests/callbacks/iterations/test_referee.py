"""Data sets that the advance rule does not let a phase learn from: rolled back, restarted or stopped, from any step."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from helpers import Scripted
from runs import CONFIG, CURATION, STEPS, fit, script, write_plain_images
from visplay.callbacks import EstimatedAccuracyGain, ReplayBuffer, RunRecord, SelfPlay, StepCheckpoint
from visplay.callbacks.curation.curator import Curator
from visplay.callbacks.iterations.kept_weights import KeptWeights
from visplay.data.benchmarks.benchmark import Benchmark
from visplay.data.module import SelfPlayData
from visplay.modules import Questioner, QuestionFormat, Qwen2_5_VL, Reasoner, Tuning, VisPlay, Voting
from visplay.modules.policy.weights.tuning import LoRA
from visplay.tiny import ANSWER, ASK, BASE
from visplay.types import Example

GOOD, BAD = 0.75, 0.5


class Seen:
    """What came to pass: the weights at every curation and in every step, and the examples of the steps."""

    def __init__(self, monkeypatch):
        self.curated, self.steps, self.sampled, self.estimates = {}, [], {}, {}
        generate, step = Curator.generate, VisPlay.training_step

        def curate(curator, images):
            dataset, record = generate(curator, images)
            iteration = curator.module.phase.iteration
            self.curated[iteration] = weights(curator.module)
            return dataset, record | {"statistics": record["statistics"] | {"right": self.estimates[iteration]}}

        def training_step(module, batch, batch_idx):
            if batch:
                phase = module.phase
                self.steps.append((phase.iteration, phase.role, weights(module), list(batch)))
            return step(module, batch, batch_idx)

        monkeypatch.setattr(Curator, "generate", curate)
        monkeypatch.setattr(VisPlay, "training_step", training_step)

    def first(self, iteration, role):
        """Weights and examples of the first step of a phase."""
        return next(step[2:] for step in self.steps if step[:2] == (iteration, role))


class Fingerprinting(Scripted):
    """Notes which weights were sampled from under each name and version."""

    def __init__(self):
        super().__init__(say)
        self.fingerprints = {}

    def load_weights(self, policy):
        self.fingerprints.setdefault((policy.name, policy.version), set()).add(policy.fingerprint())


def say(policy, prompt, text, sample):
    return script("questioner" if "Ask." in text else "reasoner", prompt, text, sample)


def weights(module):
    return {name: weight.detach().clone() for name, weight in module.state_dict().items()}


def of(state, role):
    return {name: weight for name, weight in state.items() if name.startswith(role)}


def equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture
def seen(monkeypatch):
    return Seen(monkeypatch)


def make(kind):
    tuning = Tuning(lora=LoRA(rank=2)) if "LoRA" in kind else Tuning()
    questioner = Questioner(CONFIG, ASK, QuestionFormat(kinds=None))
    vlm = Qwen2_5_VL(str(BASE), tuning=tuning)
    return VisPlay(vlm, questioner, Reasoner(CONFIG, ANSWER, Voting(votes=4)), shared_policy="shared" in kind)


def run(root, otherwise, estimates, seen, *, kind="two policies", ckpt=None, name="run", replay=None, **settings):
    seen.estimates = dict(enumerate(estimates, start=1))
    keep = ModelCheckpoint(filename="phase-{epoch:02d}", auto_insert_metric_name=False, save_top_k=-1)
    keep._save_on_train_epoch_end = True
    rule = EstimatedAccuracyGain(0.1, otherwise, "right")
    return fit(
        root,
        module=make(kind),
        data=settings.pop("data", SelfPlayData)(write_plain_images(root / "images", 30)),
        engine=Fingerprinting(),
        self_play=SelfPlay(len(estimates), CURATION, rule, replay=replay),
        callbacks=[RunRecord(), StepCheckpoint(None, every_n_steps=1, keep=99), keep],
        ckpt_path=ckpt,
        logger=CSVLogger(root, name=name, version=0),
        **settings,
    )


def phases(trainer):
    lines = (Path(trainer.log_dir) / "phases.jsonl").read_text().splitlines()
    return [tuple(json.loads(line)[name] for name in ("iteration", "role", "steps", "decision")) for line in lines]


def column(trainer, name):
    with (Path(trainer.log_dir) / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


Q, R = "questioner", "reasoner"


@pytest.mark.parametrize("kind", ["two policies", "LoRA", "shared"])
def test_a_rollback_gives_all_policies_back_what_made_the_last_good_data_set(tmp_path, seen, kind):
    trainer, module, self_play = run(tmp_path, "rollback", [GOOD, GOOD, BAD, GOOD], seen, kind=kind)
    assert phases(trainer) == [
        *((i, role, STEPS, "advance") for i in (1, 2) for role in (Q, R)),
        *((3, Q, STEPS, "advance"), (3, R, 0, "rollback")),
        *((4, role, STEPS, "advance") for role in (Q, R)),
    ]
    after, images = seen.first(4, Q)
    assert equal(after, seen.curated[2])
    assert not equal(after, seen.curated[3])
    before = [item.key for iteration, role, _, batch in seen.steps for item in batch if (iteration, role) == (3, Q)]
    assert not {*before} & {item.key for item in images}, "it goes on with new images"
    assert all(len(found) == 1 for found in trainer.callbacks[0].fingerprints.values()), "no version has two weights"
    assert [Path(path).stem for path, _ in self_play.learned] == ["iteration-1", "iteration-2", "iteration-4"]
    # iteration 4 is compared with iteration 2
    assert column(trainer, "advance/reasoner/measured") == [0.0, BAD - GOOD, 0.0]
    assert column(trainer, "advance/reasoner/moved_on") == [1.0, 0.0, 1.0]
    assert self_play.phase.steps_before == {Q: 4 * STEPS, R: 3 * STEPS}


@pytest.mark.parametrize("kind", ["two policies", "LoRA", "shared"])
def test_a_restart_learns_from_the_base_on_what_was_good(tmp_path, seen, kind):
    base = make(kind)
    base.reasoner.vlm.load()
    base.questioner.vlm.load(base.reasoner.vlm)
    trainer, _, self_play = run(tmp_path, "restart", [GOOD, GOOD, BAD, GOOD], seen, kind=kind)
    assert [each for each in phases(trainer) if each[3] != "advance"] == [(3, R, STEPS, "restart")]
    began, examples = seen.first(3, R)
    assert equal(of(began, R), of(weights(base), R))
    if kind != "shared":
        assert equal(of(began, Q), of(seen.curated[3], Q)), "the Questioner goes on"
    examples = [e for i, role, _, batch in seen.steps if (i, role) == (3, R) for e in batch]
    assert {e.iteration for e in examples} == {1, 2}
    assert len({e.key for e in examples}) == len(examples)
    assert [Path(path).stem for path, _ in self_play.learned] == ["iteration-1", "iteration-2", "iteration-4"]
    assert {e.iteration for e in seen.first(4, R)[1]} == {4}
    assert all(len(found) == 1 for found in trainer.callbacks[0].fingerprints.values())


def test_a_stop_ends_the_run_with_its_weights(tmp_path, seen):
    trainer, module, self_play = run(tmp_path, "stop", [GOOD, BAD, GOOD], seen)
    assert phases(trainer)[-2:] == [(2, Q, STEPS, "advance"), (2, R, 0, "stop")]
    assert (self_play.ended, self_play.phases_done) == (True, 4)
    assert equal(weights(module), seen.curated[2])
    assert not self_play.referee.kept.weights, "nothing to go back to"


def test_without_a_fall_nothing_is_undone(tmp_path, seen):
    trainer, _, _ = run(tmp_path, "rollback", [GOOD, GOOD - 0.1, GOOD - 0.05], seen)
    assert {decision for *_, decision in phases(trainer)} == {"advance"}


@pytest.mark.parametrize(("otherwise", "kind"), [("rollback", "two policies"), ("restart", "LoRA")])
def test_a_run_goes_on_from_any_step(tmp_path, seen, otherwise, kind):
    estimates, replay = [GOOD, BAD, GOOD], ReplayBuffer(share=0.5)
    trainer, expected, done = run(tmp_path, otherwise, estimates, seen, kind=kind, replay=replay)
    directory, whole = Path(trainer.log_dir), seen.steps
    checkpoints = sorted(path for path in (directory / "checkpoints").glob("*.ckpt") if path.name >= "phase-02")
    assert ("phase-03-step-0000.ckpt" in {path.name for path in checkpoints}) == (otherwise == "rollback")
    assert len(checkpoints) == 4 + 3 * STEPS + (1 if otherwise == "rollback" else STEPS)  # of phases, and of steps
    for path in checkpoints:
        seen.steps = []
        again, module, self_play = run(
            tmp_path, otherwise, estimates, seen, kind=kind, replay=replay, ckpt=path, name=path.stem
        )
        assert equal(weights(module), weights(expected)), path.name
        assert len(seen.steps) == len(whole) - _steps_done(path, whole), path.name
        for mine, theirs in zip(seen.steps, whole[len(whole) - len(seen.steps) :], strict=True):
            assert mine[:2] == theirs[:2]
            assert [e.key for e in mine[3]] == [e.key for e in theirs[3]]
        assert phases(again) == phases(trainer)
        assert self_play.phase == done.phase
        assert self_play.referee.curation["right"] == done.referee.curation["right"] == GOOD
        assert [role.vlm.version for role in module.roles.values()] == [
            role.vlm.version for role in expected.roles.values()
        ]


def _steps_done(path, whole):
    """Steps that a checkpoint has behind it."""
    state = torch.load(path, weights_only=True)["callbacks"]["SelfPlay"]["phase"]
    return sum(state["steps_before"].values()) + state["step"]


def test_a_checkpoint_without_the_rule_has_nothing_to_restart_from(tmp_path, seen):
    trainer, _, _ = run(tmp_path, "stop", [GOOD, GOOD], seen)
    ckpt = Path(trainer.log_dir) / "checkpoints" / "phase-02.ckpt"
    with pytest.raises(ValueError, match="self_play.advance: no weights to go back to"):
        run(tmp_path, "restart", [GOOD, BAD], seen, ckpt=ckpt, name="again")


def test_sharded_weights_are_not_kept():
    policy = SimpleNamespace(name="reasoner", sharded=True, adapters=None)
    with pytest.raises(ValueError, match="self_play.advance: copies of the whole weights of 'reasoner' are needed"):
        KeptWeights().keep([policy])


class Validated(SelfPlayData):
    def benchmarks(self, stage="test"):
        return [Benchmark("mine", [Example("a", self.images[1].image, "What is 1?", "1")])]


def test_an_iteration_that_is_undone_is_validated_with_the_weights_that_came_back(tmp_path, seen, monkeypatch):
    validated = []
    score = VisPlay.on_validation_epoch_end
    monkeypatch.setattr(
        VisPlay, "on_validation_epoch_end", lambda module: (validated.append(weights(module)), score(module))[1]
    )
    trainer, module, _ = run(tmp_path, "rollback", [GOOD, BAD], seen, data=Validated, num_sanity_val_steps=-1)
    assert len(column(trainer, "val/mine/rule_accuracy")) == len(validated) == 3  # the base and two iterations
    assert equal(validated[2], seen.curated[1])
    assert not equal(validated[1], validated[2])
    last = torch.load(Path(trainer.log_dir) / "checkpoints" / "phase-03.ckpt", weights_only=True)
    assert equal(last["state_dict"], weights(module))
