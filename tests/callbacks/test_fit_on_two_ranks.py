"""The ordinary command on two ranks makes the run that it makes on one."""

import json
import shutil
import time

import psutil
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from two_ranks import ON_TWO, SMALL, assert_close, fit_on_ranks, kill_all, start_fit

pytestmark = pytest.mark.timeout(900)  # three processes, which load all there is


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The run's directory and standard output, on one rank and on two."""
    return fit_on_ranks(tmp_path_factory.mktemp("ranks"))


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
    shards = [sorted((directory / "generated" / "iteration-1").glob("*.jsonl")) for directory, _ in runs.values()]
    assert [file.read_bytes() for file in shards[0]] == [file.read_bytes() for file in shards[1]]
    assert len(shards[0]) == 2


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


@pytest.mark.parametrize(("begun", "options"), [("one", ON_TWO), ("two", [])])
def test_a_run_goes_on_on_another_number_of_ranks(runs, tmp_path, begun, options):
    shutil.copytree(runs[begun][0].parents[1], tmp_path / begun)
    directory = tmp_path / begun / "tiny" / "version_0"
    for path in (directory / "checkpoints").iterdir():
        if not path.name.startswith("phase-00.ckpt"):
            path.unlink()
    cache = f"--data.cache={runs[begun][0].parents[1] / 'tiny-images'}"
    again = start_fit(tmp_path / begun, *SMALL, *options, cache, "--auto_resume")
    try:
        _, error = again.communicate(timeout=600)
    finally:
        kill_all(again)
    assert again.returncode == 0, error[-3000:]
    assert [path.name for path in directory.parent.iterdir()] == ["version_0"]
    states = [torch.load(run / "checkpoints" / "phase-01.ckpt")["state_dict"] for run in (directory, runs["one"][0])]
    assert_close(*states)


def test_one_rank_writes_and_speaks(runs):
    directory, out = runs["two"]
    assert len(list(directory.glob("events.out.tfevents.*"))) == 1
    assert out.count("summary: ") == 1
    assert out.count("Self-play, iteration by iteration") == 2
    assert {path.name for path in directory.parent.iterdir()} == {"version_0"}
    ranks = {file.stem.rpartition("-")[2] for file in (directory / "evaluation" / "iteration-1").glob("*.jsonl")}
    assert ranks == {"rank0", "rank1"}


@pytest.mark.parametrize("killed", [0, 1])
def test_a_rank_that_is_killed_ends_the_run(tmp_path, killed):
    long = "--model.questioner.init_args.grpo.steps=1000"
    each_step = "--step_checkpoint.init_args.every_n_steps=1"
    first = start_fit(tmp_path, *SMALL, *ON_TWO, long, each_step, "--trainer.num_sanity_val_steps=0")
    try:
        checkpoints = tmp_path / "tiny" / "version_0" / "checkpoints"
        while not list(checkpoints.glob("*.ckpt")):
            assert first.poll() is None, first.stderr.read()[-3000:]
            time.sleep(0.1)
        (second,) = (p for p in psutil.Process(first.pid).children() if "visplay.__main__" in p.cmdline())
        ranks = [psutil.Process(first.pid), second]
        ranks[killed].kill()
        assert first.wait(timeout=120) != 0
        gone, alive = psutil.wait_procs([second], timeout=120)
        assert (gone, alive) == ([second], [])
    finally:
        kill_all(first)
