import pytest

from visplay.functional import ScoredRows, average_benchmarks, compare_paired
from visplay.metrics import BenchmarkAverage, PairedComparison


def test_average_delegates():
    metric = BenchmarkAverage()
    metric.update("small", ["a"], [False])
    metric.update("large", ["a", "b", "c"], [True, True, False], ["f", "f", None])
    report = metric.compute()
    clusters = ["f", "f", "c"]
    expected = average_benchmarks({"large": ScoredRows([1, 1, 0], clusters), "small": ScoredRows([0])})
    assert repr(report.metrics) == repr(expected)
    assert report.metrics["macro_average"].value == pytest.approx(1 / 3)
    assert report.metrics["micro_average"].value == 0.5
    assert report.counts == {"items": 4, "conflicts": 0, "benchmarks": 2}


def test_comparison_delegates():
    metric = PairedComparison()
    metric.update("after", ["b", "a"], [True, True], ["f", "f"])
    metric.update("before", ["a", "b"], [False, True])
    metric.update("before", ["c"], [False])
    metric.update("after", ["c"], [True])
    expected = compare_paired({"a": 0, "b": 1, "c": 0}, {"a": 1, "b": 1, "c": 1}, {"a": "f", "b": "f"})
    assert metric.compute() == expected
    assert (expected.gained, expected.lost) == (2, 0)


def test_missing_rows_are_refused_or_counted():
    strict, counting = PairedComparison(), PairedComparison(on_missing="count")
    for metric in (strict, counting):
        metric.update("before", ["a", "b", "c"], [True, False, True])
        metric.update("after", ["b", "c"], [True, True])
    assert counting.compute().missing_after == ("a",)
    assert counting.compute().difference.value == 0.5
    with pytest.raises(ValueError, match=r"after 1 items \['a'\]"):
        strict.compute()


def test_rows_of_two_figures_are_not_the_same_row():
    metric = PairedComparison()
    metric.update("before", ["a"], [True], ["f"])
    metric.update("after", ["a"], [True], ["g"])
    with pytest.raises(ValueError, match="item 'a' has 'g' on one side, 'f' on the other"):
        metric.compute()


def test_unknown_side():
    with pytest.raises(ValueError, match="side: .* got 'base'"):
        PairedComparison().update("base", ["a"], [True])
