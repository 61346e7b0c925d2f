"""The ordinary command on two ranks makes the run that it makes on one."""

import json
import math
import shutil

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from two_ranks import TWO_RANKS, fit_on_ranks, fit_once


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The run's directory and standard output, on one rank and on two."""
    return fit_on_ranks(tmp_path_factory.mktemp("ranks"))


def scalars(directory):
    events = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    events.Reload()
    return {(tag, e.step): e.value for tag in events.Tags()["scalars"] for e in events.Scalars(tag)}


def assert_close(state, expected):
    """Within 1e-5 of all weights; of a gradient that is all but rounding, AdamW makes a step as of any other."""
    assert state.keys() == expected.keys()
    distances = [float((state[name] - weight).norm()) for name, weight in expected.items()]
    assert math.hypot(*distances) <= 1e-5 * math.hypot(*(float(weight.norm()) for weight in expected.values()))


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


@pytest.mark.parametrize(("begun", "options"), [("one", TWO_RANKS), ("two", [])])
def test_a_run_goes_on_on_another_number_of_ranks(runs, tmp_path, begun, options):
    shutil.copytree(runs[begun][0].parents[1], tmp_path / begun)
    directory = tmp_path / begun / "tiny" / "version_0"
    for path in (directory / "checkpoints").iterdir():
        if not path.name.startswith("phase-00.ckpt"):
            path.unlink()
    fit_once(tmp_path / begun, "--auto_resume", *options, cache=runs[begun][0].parents[1] / "tiny-images")
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
