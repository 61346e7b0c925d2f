"""The ordinary command on two ranks, with whole weights on each or sharded, makes the run that it makes on one."""

import json
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.ranks import SMALL
from two_ranks import ON_TWO, SHARDED, assert_close, fit_on_ranks, kill_all, start_fit

pytestmark = pytest.mark.timeout(900)  # five processes, which load all there is
CALLBACKS = [f"--trainer.callbacks+=visplay.callbacks.{name}" for name in ("Export", "Diagnostics")]
GATE = "--self_play.curation.gates+=visplay.callbacks.NotAskedBefore"


@pytest.fixture(scope="module")
def all_runs(tmp_path_factory):
    """The run's directory and standard output, on one rank and on two of both strategies."""
    return fit_on_ranks(tmp_path_factory.mktemp("ranks"), *CALLBACKS, further=[GATE])


@pytest.fixture(scope="module", params=["two", "sharded"])
def runs(request, all_runs):
    """On one rank and on two of one strategy."""
    return {"one": all_runs["one"], "two": all_runs[request.param]}


def scalars(directory):
    events = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    events.Reload()
    return {(tag, e.step): e.value for tag in events.Tags()["scalars"] for e in events.Scalars(tag)}


def test_the_summary_is_that_of_one_rank(runs):
    one, two = (json.loads((directory / "summary.json").read_text()) for directory, _ in runs.values())
    assert [row["iteration"] for row in one] == [0, 1]
    for row, other in zip(one, two, strict=True):
        assert row.keys() == other.keys()
        assert other == pytest.approx(row, abs=5e-4)


def test_the_questions_admitted_are_those_of_one_rank(runs):
    generated = [(directory / "generated" / "iteration-1.parquet").read_bytes() for directory, _ in runs.values()]
    assert generated[0] == generated[1]
    files = [sorted((directory / "generated" / "iteration-1").glob("*.jsonl")) for directory, _ in runs.values()]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]
    assert len(files[0]) == 3  # two batches, and why each question is not kept
    records = [json.loads((directory / "manifest.json").read_text())["iteration-1"] for directory, _ in runs.values()]
    assert records[0]["gates"] == records[1]["gates"]
    assert records[0]["gates"]["not_asked_before"]["asked"]


def test_the_log_is_that_of_one_rank(runs):
    one, two = (scalars(directory) for directory, _ in runs.values())
    assert one.keys() == two.keys()
    assert ("reasoner/grad_norm", 1) in one
    for (name, step), value in one.items():
        if "_second" not in name:
            assert two[name, step] == pytest.approx(value, rel=1e-3, abs=1e-5), (name, step)


def test_the_policies_are_those_of_one_rank(runs):
    for phase in ("phase-00.ckpt", "phase-01.ckpt"):
        states = [torch.load(directory / "checkpoints" / phase)["state_dict"] for directory, _ in runs.values()]
        assert_close(*states)


@pytest.mark.parametrize(
    ("begun", "options"), [("one", ON_TWO), ("two", SHARDED), ("sharded", ["--trainer.strategy=ddp"])]
)
def test_a_run_goes_on_on_other_ranks(all_runs, tmp_path, begun, options):
    runs = all_runs
    shutil.copytree(runs[begun][0].parents[1], tmp_path / begun)
    directory = tmp_path / begun / "tiny" / "version_0"
    for path in (directory / "checkpoints").iterdir():
        if not path.name.startswith("phase-00.ckpt"):
            path.unlink()
    cache = f"--data.cache={runs[begun][0].parents[1] / 'tiny-images'}"
    again = start_fit(tmp_path / begun, *CALLBACKS, *SMALL, GATE, *options, cache, "--auto_resume")
    try:
        _, error = again.communicate(timeout=600)
    finally:
        kill_all(again)
    assert again.returncode == 0, error[-3000:]
    assert [path.name for path in directory.parent.iterdir()] == ["version_0"]
    states = [torch.load(run / "checkpoints" / "phase-01.ckpt")["state_dict"] for run in (directory, runs["one"][0])]
    assert_close(*states)


@pytest.mark.parametrize("role", ["questioner", "reasoner"])
def test_the_exports_are_those_of_one_rank(runs, role):
    one, two = (directory / "exports" / "iteration-1" / role for directory, _ in runs.values())
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    weights, others = (load_file(directory / "model.safetensors") for directory in (one, two))
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        assert (weight.dtype, weight.shape) == (others[name].dtype, others[name].shape)
        torch.testing.assert_close(others[name], weight, rtol=2**-7, atol=1e-5)  # a bfloat16 may be rounded otherwise


def test_one_rank_writes_and_speaks(runs):
    directory, out = runs["two"]
    assert len(list(directory.glob("events.out.tfevents.*"))) == 1
    assert out.count("summary: ") == 1
    assert out.count("Self-play, iteration by iteration") == 2
    assert {path.name for path in directory.parent.iterdir()} == {"version_0"}
    ranks = {file.stem.rpartition("-")[2] for file in (directory / "evaluation" / "iteration-1").glob("*.jsonl")}
    assert ranks == {"rank0", "rank1"}


def test_a_phase_goes_on_on_other_ranks(all_runs, tmp_path):
    """Sharded until SIGTERM, on one rank until it is killed, and sharded again."""
    checkpoints = tmp_path / "tiny" / "version_0" / "checkpoints"
    each_step = ["--step_checkpoint.init_args.every_n_steps=1", "--trainer.num_sanity_val_steps=0"]
    for options, last, end in ((SHARDED, "phase-00-step-0001", "terminate"), ([], "phase-01-step-0001", "kill")):
        running = start_fit(tmp_path, *SMALL, *each_step, *options, "--auto_resume")
        try:
            while not list(checkpoints.glob(f"{last}.ckpt")):
                assert running.poll() is None, running.stderr.read()[-3000:]
                time.sleep(0.05)
            getattr(running, end)()
            running.wait(timeout=120)
        finally:
            kill_all(running)
    running = start_fit(tmp_path, *SMALL, *each_step, *SHARDED, "--auto_resume")
    try:
        _, error = running.communicate(timeout=600)
    finally:
        kill_all(running)
    assert running.returncode == 0, error[-3000:]
    processes = json.loads((checkpoints.parent / "run.json").read_text())["processes"]
    assert [process["exit"] for process in processes] == ["interrupted by SIGTERM", "killed", "finished"]
    ended = [
        torch.load(path)
        for path in (checkpoints / "phase-01.ckpt", all_runs["one"][0] / "checkpoints" / "phase-01.ckpt")
    ]
    assert_close(*(checkpoint["state_dict"] for checkpoint in ended))
