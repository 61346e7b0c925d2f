from collections import Counter
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import psutil
import pytest
import torch

from benchmarks.kills import VARIANTS, differences, format_table, measure, shared_memory


@pytest.mark.timeout(600)
def test_a_run_that_is_killed_four_times_comes_out_as_it_would_have(tmp_path):
    options = ["--self_play.iterations=1", "--step_checkpoint.every_n_steps=1"]
    counts, faults = measure(tmp_path, VARIANTS["two policies"], 4, options, per_run=4)
    assert (counts.total(), faults) == (4, [])


def test_what_differs_is_named():
    left = {"a": [torch.ones(2), {"b": 1}], "c": b"x"}
    assert differences(left, {"a": [torch.ones(2), {"b": 1}], "c": b"x"}) == []
    assert differences(left, {"a": [torch.zeros(2), {"b": 2}], "d": 1}) == ["/a/0", "/a/1/b", "/c", "/d"]
    assert differences({"curve": [(1, 0.5)]}, {"curve": [(1, 0.5), (1, 0.5)]}) == ["/curve"]


def test_kills_are_counted_by_stage_and_variant():
    table = format_table({"LoRA": Counter(votes=2, update=1), "vLLM": Counter({"votes": 1, "between stages": 3})})
    rows = table.splitlines()
    assert rows[0] == "| killed in | LoRA | vLLM |"
    assert {"| votes | 2 | 1 |", "| update | 1 | 0 |", "| between stages | 0 | 3 |"} <= set(rows)
    assert rows[-1] == "| in all | 3 | 4 |"


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="the system has none")
def test_shared_memory_of_a_process_is_seen():
    segment = SharedMemory(create=True, size=64)
    try:
        assert f"/dev/shm/{segment.name}" in shared_memory([psutil.Process()])
    finally:
        segment.close()
        segment.unlink()
    assert f"/dev/shm/{segment.name}" not in shared_memory([psutil.Process()])
