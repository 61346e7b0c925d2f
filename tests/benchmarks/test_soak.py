import os
from pathlib import Path
from random import Random

import pytest

from benchmarks.soak import LIMITS, find_growth, format_table, growing, soak

MEMORY = "memory, KiB"
LEAKED = {MEMORY: 4096, "open files and sockets": 1, "threads": 1, "temporary files": 1, "files of the run": 1}


def run(directory, *options):
    """Thirty-two steps, four in an iteration."""
    return soak(directory, iterations=8, steps=2, every=1, options=options)


def samples(value):
    """Of 16 iterations of 100 steps, one in every 5."""
    steps = range(5, 1605, 5)
    return [{"step": step, "iteration": (step - 5) // 100, "x": value(step)} for step in steps]


@pytest.mark.timeout(300)
def test_a_short_run_keeps_nothing(tmp_path):
    found = run(tmp_path)
    assert found.keys() == LIMITS.keys()
    assert growing(found) == []


@pytest.mark.timeout(300)
def test_what_is_kept_is_found(tmp_path, monkeypatch):
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]))
    found = run(tmp_path, "--trainer.callbacks+=leak.Leak")
    assert set(growing(found)) == LEAKED.keys()
    for name, amount in LEAKED.items():
        assert found[name].slope == pytest.approx(amount, rel=0.25)


def test_a_slope_has_the_interval_of_ordinary_least_squares():
    values = {0: 9.0, 1: 9.0, 2: 1.0, 3: 2.0, 4: 4.0, 5: 5.0, 6: 5.0}  # of seven iterations two do not count
    found = find_growth([{"step": n, "iteration": n, "x": value} for n, value in values.items()], "x")
    # slope 11 / 10; residuals -0.2, -0.3, 0.6, 0.5, -0.6, whose squares sum to 1.1; t of 3 degrees of freedom 3.1824
    assert (found.first, found.last, found.slope) == (1.0, 5.0, pytest.approx(1.1))
    half = 3.1824 * (1.1 / 3 / 10) ** 0.5
    assert (found.low, found.high) == (pytest.approx(1.1 - half, abs=1e-4), pytest.approx(1.1 + half, abs=1e-4))


def test_what_fills_first_or_comes_and_goes_does_not_grow():
    found = find_growth(samples(lambda step: min(step, 400) + step % 50), "x")
    assert (found.slope, found.low, found.high) == pytest.approx((0, 0, 0), abs=1e-9)


def test_the_interval_has_the_slope_in_it_as_often_as_it_says():
    draw = Random(0)
    found = [find_growth(samples(lambda step: draw.gauss(1000, 10) + 0.5 * step), "x") for _ in range(200)]
    assert 0.9 < sum(each.low < 0.5 < each.high for each in found) / 200 < 0.99


def test_growth_is_what_is_surely_above_its_limit():
    still, once, again = (
        find_growth(samples(count), "x")
        for count in (lambda step: 7, lambda step: step // 1000, lambda step: step // 250)
    )
    assert growing(dict.fromkeys(LIMITS, still)) == []
    assert growing({"threads": once, "files of the run": again}) == ["files of the run"]
    assert growing({"threads": again}) == ["threads"]
    assert "| threads | 7 | 7 | 0.0000 | 0.0000 … 0.0000 | 1,100 |" in format_table({"threads": still})


def test_too_few_iterations_are_rejected():
    with pytest.raises(ValueError, match="2 iterations after the first quarter; a slope's interval needs 3"):
        find_growth([{"step": n, "iteration": n, "x": 0.0} for n in range(3)], "x")
