import pytest

from benchmarks.measure import Spread, alternate


def test_parts_take_turns_and_the_first_round_does_not_count():
    calls, now = [], iter([0, 90, 100, 190, 200, 201, 300, 302, 400, 405, 500, 504])
    parts = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    seconds = alternate(parts, rounds=2, clock=lambda: next(now))
    assert calls == ["a", "b"] * 3
    assert seconds == {"a": Spread(3, 1, 5), "b": Spread(3, 2, 4)}


def test_rounds_end_before_the_limit_but_one_counts(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def rounds(limit):
        calls = []
        alternate({"a": lambda: (calls.append("a"), now.__setitem__(0, now[0] + 10))}, rounds=5, limit=limit)
        return len(calls) - 1

    assert [rounds(limit) for limit in (0, 25, 30, 45, 1000)] == [1, 1, 2, 3, 5]


def test_spread_of_a_rate_turns_around():
    assert Spread.of([4.0, 1.0, 2.0]).rate(8.0) == Spread(4.0, 2.0, 8.0)
    assert Spread(2.0, 1.0, 4.0).scaled(3.0) == Spread(6.0, 3.0, 12.0)


def test_no_rounds_are_rejected():
    with pytest.raises(ValueError, match="rounds: 0 must be at least 1"):
        alternate({}, rounds=0)
