import pytest

from benchmarks.checkpoints import fraction, timed


class Model:
    def step(self, factor):
        return 2 * factor


def test_calls_are_timed_within_and_as_they_were_after():
    before = Model.step
    with timed(Model, "step") as seconds:
        assert [Model().step(1), Model().step(factor=2)] == [2, 4]
    assert len(seconds) == 2
    assert min(seconds) > 0
    assert Model.step is before


def test_one_is_written_every_five_minutes_or_later_where_that_takes_long():
    assert fraction(step=1.0, note=0.0, write=3.0) == pytest.approx(3 / 303)
    assert fraction(step=1.0, note=0.0, write=30.0) == pytest.approx(30 / 1030)  # 1,000 s later: 3 % of that are 30
    assert fraction(step=0.99, note=0.01, write=3.0) == pytest.approx(0.01 + 3 / 303)
