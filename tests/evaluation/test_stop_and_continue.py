"""Evaluations in processes of their own: killed and started again, and on two ranks."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from evaluation_run import BATCH, main, make_suite
from visplay.evaluation import AnswerStore

pytestmark = pytest.mark.timeout(900)  # up to two processes at once, which load all there is

TESTS = Path(__file__).parents[1]
BENCHMARKS = ("compositional", "hallucination", "heldout")
LIMIT_SECONDS = 600


def start(directory, devices=1):
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TESTS / "evaluation_run.py"), str(directory), str(devices)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    out, _ = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 0, out
    return out


def asked(directory):
    return Counter(line for path in directory.glob("asked-*.txt") for line in path.read_text().splitlines())


def result(directory):
    """The scores, and every item by its key; items must be there once."""
    (only,) = (directory / "evaluation").iterdir()
    store = AnswerStore(only)
    items = [item for benchmark in store.benchmarks() for item in store.items(benchmark)]
    assert len({item.key for item in items}) == len(items)
    return json.loads((only / "scores.json").read_text()), {item.key: item for item in items}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One run that nobody stops."""
    directory = tmp_path_factory.mktemp("evaluation") / "whole"
    main(directory, 1)
    return directory


def test_every_row_is_asked_once(whole):
    counts = asked(whole)
    assert set(counts.values()) == {1}
    assert {key: 1 for benchmark in make_suite(whole).open() for key in benchmark.keys} == counts
    assert counts.keys() == result(whole)[1].keys()


def test_killed_and_started_again(whole):
    directory = whole.parent / "killed"
    process = start(directory)
    deadline = time.monotonic() + LIMIT_SECONDS
    while sum(asked(directory).values()) < 5 * BATCH:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(asked(directory)) < len(asked(whole))
    finish(start(directory))
    assert result(directory) == result(whole)
    assert asked(directory).total() - asked(whole).total() <= BATCH


def test_two_ranks_say_what_one_says(whole):
    directory = whole.parent / "ranks"
    finish(start(directory, devices=2))
    assert result(directory) == result(whole)
    assert all((directory / f"asked-{rank}.txt").is_file() for rank in (0, 1))
    assert asked(directory) == asked(whole)
