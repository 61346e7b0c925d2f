"""The short form of ``python -m benchmarks.fuzz``."""

import time

import pytest

from benchmarks import fuzz


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_nothing_crashes_and_nothing_hangs(name):
    found = fuzz.fuzz(name, 150, seed=1)
    assert (found.inputs, found.failures) == (150, [])
    assert found.rejected < 150


def test_an_input_that_crashes_or_hangs_is_named(monkeypatch):
    def target(draw):
        if draw.random() < 0.5:
            raise KeyError("x")
        time.sleep(9)

    monkeypatch.setitem(fuzz.TARGETS, "parser", (target, ()))
    monkeypatch.setattr(fuzz, "SECONDS_EACH", 0.01)
    found = fuzz.fuzz("parser", 8, first=3)
    assert [number for number, _ in found.failures] == list(range(3, 11))
    assert {error.partition(":")[0] for _, error in found.failures} == {"KeyError", "HangError"}
