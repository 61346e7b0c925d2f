"""Checkpoints within a phase: a run that goes on from any of them equals one that nobody stopped, bit for bit."""

import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data.rows import encode
from helpers import Scripted, plain_image
from runs import CONFIG, CURATION, fit, script, write_plain_images
from visplay.callbacks import Diagnostics, SampleLogger, SelfPlay, StepCheckpoint
from visplay.callbacks.checkpoints import DurableCheckpointIO
from visplay.callbacks.logging import cut_log
from visplay.data.generated import write_examples
from visplay.data.module import ImageSource, LabelledSource, SelfPlayData
from visplay.data.streams.image_stream import Streaming
from visplay.data.table_collections import Columns
from visplay.functional import token_truncated_weights
from visplay.modules import Questioner, QuestionFormat, Qwen2_5_VL, Reasoner, Tuning, VisPlay, Voting
from visplay.modules.learner.grpo import GRPO
from visplay.modules.policy.weights.model_source import check_checkpoint
from visplay.modules.policy.weights.tuning import LoRA
from visplay.tiny import ANSWER, ASK, BASE
from visplay.types import Example, PhaseState

TIMED = ("_seconds", "_per_second")


def say(policy, prompt, text, sample):
    """As always, whoever's policy it is, and something where a question is asked without its image."""
    return (
        script("questioner" if "Ask." in text else "reasoner", prompt, text, sample) if prompt.images else "\\boxed{1}"
    )


class Ahead(Scripted):
    """Reports log-probabilities that tell the version that it sampled from."""

    def _complete(self, policy, prompt, sample):
        completion = super()._complete(policy, prompt, sample)
        return replace(completion, logps=(-1.0 - policy.version / 8,) * len(completion.token_ids))


ANEW = "a Questioner that starts from the base, a learning rate that falls"


def make(kind):
    config = replace(CONFIG, steps=3, weight_decay=0.1)
    if kind == "sampled ahead":
        config = replace(
            config, staleness=1, correction=token_truncated_weights, filter_zero_variance=True, max_refills=1
        )
    lora = Tuning(lora=LoRA(rank=2, dropout=0.2)) if "LoRA" in kind else Tuning()
    vlm = Qwen2_5_VL(str(BASE), tuning=lora)
    if kind == "a Reasoner alone":
        return Reasoner(config, ANSWER, Voting(votes=4), vlm=vlm)
    if kind == "KL from the base":
        config = replace(config, kl_reference="base", filter_zero_variance=True, max_refills=1)
    asks = replace(config, start_from="base") if kind == ANEW else config
    answers = replace(config, learning_rate_decay=0.5) if kind == ANEW else config
    questioner = Questioner(asks, ASK, QuestionFormat(kinds=None))
    return VisPlay(vlm, questioner, Reasoner(answers, ANSWER, Voting(votes=4)), shared_policy="shared" in kind)


def make_data(kind, root):
    labelled = None
    if kind in ("a Reasoner alone", "labelled and generated"):
        path = root / "labelled.parquet"
        rows = [Example(f"g{n}", plain_image(n), f"What is {n}?", str(n)) for n in range(7)]
        write_examples(path, rows)
        labelled = LabelledSource(str(path), columns=Columns(key="key"))
    images = write_shards(root / "shards") if kind == "a stream" else write_plain_images(root / "images")
    return SelfPlayData(images, labelled, silver_fraction=0.4)


def write_shards(directory):
    """Eleven images in three parquet files, two to a row group."""
    directory.mkdir(exist_ok=True)
    for shard, numbers in enumerate((range(4), range(4, 5), range(5, 11))):
        rows = pa.table({"image": [encode(number, size=(56, 56)) for number in numbers]})
        pq.write_table(rows, directory / f"{shard}.parquet", row_group_size=2)
    return ImageSource(str(directory), streaming=Streaming(shuffle_buffer=4, prefetch=2))


def run(kind, root, name="run", ckpt=None, further=(), iterations=1):
    callbacks = [StepCheckpoint(None, every_n_steps=1, keep=99), Diagnostics(2, 2), SampleLogger(2), *further]
    callbacks.append(ModelCheckpoint(filename="phase-{epoch:02d}", auto_insert_metric_name=False, save_top_k=-1))
    trainer, module, self_play = fit(
        root,
        module=make(kind),
        engine=Ahead(say) if kind == "sampled ahead" else Scripted(say),
        data=make_data(kind, root),
        self_play=SelfPlay(iterations, CURATION),
        callbacks=callbacks,
        ckpt_path=ckpt,
        logger=TensorBoardLogger(root, name=name, version=0),
    )
    return trainer, module, self_play


def curves(directory):
    """Every scalar of a run, step by step, but for those that are times."""
    events = EventAccumulator(str(directory), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.endswith(TIMED)]
    found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}
    found |= {f"{t} (image)": [e.step for e in events.Images(t)] for t in events.Tags()["images"]}
    return found | {f"{t} (text)": [e.step for e in events.Tensors(t)] for t in events.Tags()["tensors"]}


def assert_same(left, right):
    """The same weights, versions, gaps and state of the loop, bit for bit."""
    (_, module, self_play), (_, other, other_play) = left, right
    for (name, weight), expected in zip(other.state_dict().items(), module.state_dict().values(), strict=True):
        assert torch.equal(weight, expected), name
    for role, expected in zip(other.roles.values(), module.roles.values(), strict=True):
        assert role.vlm.version == expected.vlm.version
        assert role.learner.mismatch.accepted == expected.learner.mismatch.accepted
    mine, theirs = self_play.state_dict(), other_play.state_dict()
    mine.pop("dataset"), theirs.pop("dataset")
    assert [sha256 for _, sha256 in mine.pop("learned")] == [sha256 for _, sha256 in theirs.pop("learned")]
    assert mine == theirs


KINDS = [
    "two policies",
    "LoRA",
    "LoRA, shared",
    "shared",
    "a Reasoner alone",
    "labelled and generated",
    "KL from the base",
    "a stream",
    "sampled ahead",
]
FROM_EVERY_STEP = ["two policies", "sampled ahead"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_from_any_step(tmp_path, kind, caplog):
    """Kinds not in ``FROM_EVERY_STEP`` go on from the middle and end of the first phase and the middle of the last."""
    whole = run(kind, tmp_path)
    directory = Path(whole[0].log_dir)
    checkpoints = sorted((directory / "checkpoints").glob("*-step-*.ckpt"))
    assert len(checkpoints) == 3 * len(whole[1].roles)
    expected = curves(directory)
    for path in checkpoints if kind in FROM_EVERY_STEP else sorted({*checkpoints[1:3], checkpoints[-2]}):
        check_checkpoint(str(path))
        again = run(kind, tmp_path, path.stem, path)
        assert_same(whole, again)
        log = curves(again[0].log_dir)
        for tag, points in log.items():
            assert points == expected[tag][-len(points) :], (path.stem, tag)


def test_a_run_goes_on_in_a_later_iteration_that_begins_otherwise_than_the_first(tmp_path):
    whole = run(ANEW, tmp_path, iterations=2)
    expected = curves(whole[0].log_dir)
    for role, last in (("questioner", 1e-3), ("reasoner", 0.5e-3)):
        rates = [value for _, value in expected[f"{role}/learning_rate"]]
        assert rates == pytest.approx([1e-3] * 3 + [last] * 3)
    own = "seen_before_fraction"  # it is of the data sets in a run's own directory
    whole[2].statistics.pop(own)
    for stem in ("phase-01-step-0003", "phase-02-step-0001", "phase-03-step-0001"):
        path = Path(whole[0].log_dir) / "checkpoints" / f"{stem}.ckpt"
        again = run(ANEW, tmp_path, stem, path, iterations=2)
        again[2].statistics.pop(own)
        assert_same(whole, again)
        for tag, points in curves(again[0].log_dir).items():
            assert tag.endswith(own) or points == expected[tag][-len(points) :], (stem, tag)


@pytest.fixture
def send(monkeypatch):
    """Sends a signal to this process in the second step of the Questioner, before or after its update."""

    def send(signum, moment):
        monkeypatch.setattr(StepCheckpoint, "__init__", only_signals)
        sent, update = [], GRPO._update

        def act(*given):
            sent.append(signum)
            if moment == "rollout" and len(sent) == 2:
                os.kill(os.getpid(), signum)
            statistics = update(*given)
            if moment == "update" and len(sent) == 2:
                os.kill(os.getpid(), signum)
            return statistics

        monkeypatch.setattr(GRPO, "_update", act)

    initialize = StepCheckpoint.__init__

    def only_signals(callback, *_, **__):
        initialize(callback, every_n_minutes=None)

    return send


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(KINDS[0], tmp_path_factory.mktemp("whole"))


@pytest.fixture
def command():
    """SIGTERM ends this process as it ends the command."""

    def end(signum, _):
        raise SystemExit(128 + signum)

    before = signal.signal(signal.SIGTERM, end)
    yield
    assert signal.getsignal(signal.SIGTERM) == end, "the trainer gives back what it took"
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("moment", "step"), [("rollout", 1), ("update", 2)])
def test_sigterm_leaves_a_checkpoint_to_go_on_from(tmp_path, whole, command, monkeypatch, send, moment, step):
    send(signal.SIGTERM, moment)
    with pytest.raises(SystemExit) as ended:
        run(KINDS[0], tmp_path)
    monkeypatch.undo()
    assert ended.value.code == 143
    (path,) = (tmp_path / "run" / "version_0" / "checkpoints").glob("*.ckpt")
    assert path.name == f"phase-00-step-{step:04d}.ckpt"
    assert_same(whole, run(KINDS[0], tmp_path, "again", path))


def test_sigterm_while_the_last_checkpoint_is_written_does_not_cut_it_short(
    tmp_path, whole, command, monkeypatch, send
):
    """A scheduler tells twice; so does the other rank of a run whose ranks were all told."""

    def save(*given, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        save_checkpoint(*given, **options)

    save_checkpoint = DurableCheckpointIO.save_checkpoint
    send(signal.SIGTERM, "rollout")
    monkeypatch.setattr(DurableCheckpointIO, "save_checkpoint", save)
    with pytest.raises(SystemExit) as ended:
        run(KINDS[0], tmp_path)
    monkeypatch.undo()
    assert ended.value.code == 143
    (path,) = (tmp_path / "run" / "version_0" / "checkpoints").glob("*.ckpt")
    assert_same(whole, run(KINDS[0], tmp_path, "again", path))


def test_an_exit_that_is_lost_in_a_finalizer_comes_at_the_end_of_the_step(tmp_path, command, monkeypatch, send):
    kill, lost = os.kill, []

    class Finalized:
        def __init__(self, *told):
            self.told = told

        def __del__(self):
            kill(*self.told)

    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: lost.append(unraisable.exc_type))
    monkeypatch.setattr(os, "kill", Finalized)
    send(signal.SIGTERM, "rollout")
    with pytest.raises(SystemExit) as ended:
        run(KINDS[0], tmp_path)
    assert lost == [SystemExit]
    assert ended.value.code == 143
    (path,) = (tmp_path / "run" / "version_0" / "checkpoints").glob("*.ckpt")
    assert path.stem == "phase-00-step-0002"


@pytest.mark.parametrize(("moment", "step"), [("rollout", 1), ("update", 2)])
def test_sigusr1_writes_a_checkpoint_and_the_run_goes_on(tmp_path, whole, send, moment, step):
    send(signal.SIGUSR1, moment)
    assert_same(whole, run(KINDS[0], tmp_path))
    (path,) = (tmp_path / "run" / "version_0" / "checkpoints").glob("*-step-*.ckpt")
    assert path.name == f"phase-00-step-{step:04d}.ckpt"


def test_the_last_two_are_kept_with_their_hashes(tmp_path):
    fit(
        tmp_path,
        callbacks=[StepCheckpoint(None, every_n_steps=1)],
        logger=TensorBoardLogger(tmp_path, name="run", version=0),
    )
    written = sorted(path.name for path in (tmp_path / "run" / "version_0" / "checkpoints").iterdir())
    names = ["phase-01-step-0001.ckpt", "phase-01-step-0002.ckpt"]
    assert written == sorted(names + [f"{name}.sha256" for name in names])


def test_a_directory_that_vanishes_ends_the_run(tmp_path):
    directory = tmp_path / "run" / "version_0"

    class Removes(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if pl_module.phase.step == 1:
                shutil.rmtree(directory)
                directory.mkdir()

    with pytest.raises(FileNotFoundError, match=r"the run's directory was removed since the last step.*version_0"):
        fit(
            tmp_path,
            callbacks=[Removes(), StepCheckpoint(None, every_n_steps=1)],
            logger=TensorBoardLogger(tmp_path, name="run", version=0),
        )


def test_what_takes_long_to_write_is_written_less_often(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("visplay.callbacks.checkpoints.time.monotonic", lambda: now[0])
    written = []

    class Slow(DurableCheckpointIO):
        def save_checkpoint(self, checkpoint, path, storage_options=None):
            now[0] += 30
            written.append((now[0], path.name))

    class Minutes(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            now[0] += 600

        def setup(self, trainer, pl_module, stage):
            trainer.strategy.checkpoint_io = Slow()

    fit(tmp_path, callbacks=[Minutes(), StepCheckpoint(10)], self_play=SelfPlay(2, CURATION))
    # eight steps of 10 minutes; 30 seconds are 3 % of 1000, so every second one
    assert [name for _, name in written] == [
        "phase-00-step-0001.ckpt", "phase-01-step-0001.ckpt", "phase-02-step-0001.ckpt", "phase-03-step-0001.ckpt"
    ]  # fmt: skip


def test_a_checkpoint_that_changed_is_damaged(tmp_path):
    path = tmp_path / "a.ckpt"
    DurableCheckpointIO().save_checkpoint({"state_dict": {"weight": torch.zeros(1000)}}, path)
    check_checkpoint(str(path))
    data = path.read_bytes()
    path.write_bytes(data[:2000] + bytes([data[2000] ^ 1]) + data[2001:])
    with pytest.raises(ValueError, match=r"path: '.*a.ckpt' is damaged: its SHA-256 is [0-9a-f]{64}, and [0-9a-f]{64}"):
        check_checkpoint(str(path))
    DurableCheckpointIO().remove_checkpoint(path)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path, io = tmp_path / "a.ckpt", DurableCheckpointIO()
    io.save_checkpoint({"state_dict": {}}, path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(checkpoint, file):
        file.write(b"half of it")
        raise OSError("no space left on the device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space left"):
        io.save_checkpoint({"state_dict": {"a": 1}}, path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_data_set_that_changed_is_not_learned_from(tmp_path, whole):
    path = Path(whole[0].log_dir) / "checkpoints" / "phase-01-step-0002.ckpt"
    state = torch.load(path, weights_only=True)
    state["callbacks"]["SelfPlay"]["dataset_sha256"] = "0" * 64
    torch.save(state, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="ckpt_path: the data set that the phase was learning from has changed"):
        run(KINDS[0], tmp_path, ckpt=tmp_path / "other.ckpt")


def test_what_a_validation_has_graded_counts_in_no_step(whole):
    trainer, module, self_play = whole
    module.reasoner.grader("1", "1")
    self_play.phase = PhaseState("questioner")
    self_play.begin_phase(trainer, module)
    assert module.reasoner.grader.drain_outcomes() == {}


@pytest.mark.parametrize("step", [None, 2])
def test_a_warning_counts_the_steps_before_a_checkpoint(tmp_path, caplog, step):
    def fit_alike(name, ckpt=None):
        fit(
            tmp_path,
            module=make("a Reasoner alone"),
            data=make_data("a Reasoner alone", tmp_path),
            engine=Scripted(lambda policy, prompt, text, sample: "\\boxed{all alike}"),
            callbacks=[StepCheckpoint(None, every_n_steps=1, keep=3)],
            ckpt_path=ckpt,
            logger=TensorBoardLogger(tmp_path, name=name, version=0),
        )

    fit_alike("run")
    if step is not None:
        caplog.clear()
        fit_alike("again", tmp_path / "run" / "version_0" / "checkpoints" / f"phase-00-step-{step:04d}.ckpt")
    assert caplog.text.count("all rewards of every group were equal in each of the first 3 steps") == 1


def test_the_log_is_cut_where_the_checkpoint_was_written(tmp_path):
    for name, size in (("events.out.tfevents.1", 9), ("events.out.tfevents.2", 5), ("events.out.tfevents.3", 3)):
        (tmp_path / name).write_bytes(b"." * size)
    (tmp_path / "other").touch()
    cut_log(str(tmp_path), {"events.out.tfevents.1": 4, "events.out.tfevents.2": 7})
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == {
        "events.out.tfevents.1": 4,
        "events.out.tfevents.2": 5,
        "other": 0,
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every_n_minutes": 0}, "every_n_minutes: 0 must be above 0, or null"),
        ({"every_n_steps": -1}, "every_n_steps: -1 must be above 0, or null"),
        ({"most_time_fraction": 0}, r"most_time_fraction: 0 must be in \(0, 1\]"),
        ({"keep": 1}, "keep: 1 must be at least 2: the last checkpoint may be damaged"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        StepCheckpoint(**settings)
