"""The cost model against stages that were measured: rates fitted to some of them predict the others."""

import pytest

from benchmarks.costs import CASES, compare, fit_rates
from benchmarks.measure import Spread
from benchmarks.results import load
from visplay.planning.costs.cost_model import Rates, Work

FIGURES = load()["sections"]["costs"]["figures"]
RECORDED = FIGURES["rows"]
HELD_OUT = [name for name in RECORDED if CASES[name].held_out]


@pytest.fixture(scope="module")
def compared():
    """As ``python -m benchmarks.costs`` compares what it has measured."""
    rows = {name: {**row, "seconds": Spread(**row["seconds"])} for name, row in RECORDED.items()}
    return compare(rows, FIGURES["dtype"])[0]


def test_every_stage_is_held_out_somewhere():
    assert {CASES[name].kind for name in HELD_OUT} == {case.kind for case in CASES.values()}
    fitted = {case.model for name, case in CASES.items() if not case.held_out}
    assert "40m" not in fitted  # a width that no rate was fitted to


@pytest.mark.parametrize("name", HELD_OUT)
def test_what_no_rate_was_fitted_to_is_predicted(compared, name):
    assert compared[name]["planned"] == pytest.approx(RECORDED[name]["seconds"]["low"], rel=0.2)


def test_the_fit_finds_the_rates_that_made_the_seconds():
    true = Rates(2e9, 5e6, 100.0)
    work = [Work(1e9, 1e6, 10), Work(4e9, 1e5, 1), Work(1e8, 8e6, 3), Work(1e9, 1e7, 50)]
    found = fit_rates(work, [true.seconds(each) for each in work])
    assert vars(found) == pytest.approx(vars(true))


def test_work_that_takes_no_time_has_an_infinite_rate():
    work = [Work(1e9, 1e6, 1), Work(2e9, 4e6, 2), Work(3e9, 1e6, 2)]
    assert fit_rates(work, [1.0, 2.0, 3.0]).moved_bytes == float("inf")
    with pytest.raises(ValueError, match="at least three measured stages, got 2"):
        fit_rates(work[:2], [1.0, 2.0])
