import pytest
import torch

from benchmarks.measure import Stages
from benchmarks.profile import OVERHEAD, measure_overhead
from benchmarks.workload import Size


def test_an_inner_stage_stops_the_outer_one(monkeypatch):
    now = iter([0, 2, 5, 9, 10])
    monkeypatch.setattr("benchmarks.measure.time.perf_counter", lambda: next(now))
    stages = Stages()
    inner = stages.timed(lambda: "done", "inner")

    def outer():
        return inner()

    assert stages.timed(outer, "outer")() == "done"
    assert stages.seconds == {"outer": 2 + 4, "inner": 3}


def test_a_stage_ends_with_an_error():
    stages = Stages()
    with pytest.raises(ZeroDivisionError):
        stages.timed(lambda: 1 / 0, "broken")()
    assert stages._open == []


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no:UserWarning")
def test_a_real_step_is_split_into_its_stages(fresh_base):
    torch.manual_seed(0)
    figures = measure_overhead(fresh_base, Size(prompts=2, group=3, tokens=4, side=56), steps=2, precision="32-true")
    seconds = figures["seconds"]
    assert seconds.keys() == {"forward", "backward", "optimizer", "sampling", *OVERHEAD}
    assert all(value > 0 for value in seconds.values())
    assert figures["fraction"] == pytest.approx(sum(seconds[stage] for stage in OVERHEAD) / sum(seconds.values()))
