import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from visplay.functional import Bootstrap, ScoredRows, average_benchmarks, estimate_mean


def test_averages_by_hand():
    averages = average_benchmarks({"a": ScoredRows([1, 1, 0, 0]), "b": ScoredRows([1]), "c": ScoredRows([0, 0, 0])})
    assert averages["macro_average"].value == pytest.approx((0.5 + 1 + 0) / 3)
    assert averages["macro_average"].size == 3
    assert averages["micro_average"].value == pytest.approx(3 / 8)
    assert averages["micro_average"].size == 8


def test_the_printed_average_of_a_row_of_the_paper():
    """3B base: seven benchmarks, whose plain mean is 30.25 and whose sample-weighted mean is 26.55."""
    shares = [0.1995, 0.3624, 0.4928, 0.2708, 0.2614, 0.2023, 0.3281]
    sizes = [857, 218, 765, 1913, 3940, 3040, 951]
    items = {
        str(place): ScoredRows([float(item < round(share * size)) for item in range(size)])
        for place, (share, size) in enumerate(zip(shares, sizes, strict=True))
    }
    averages = average_benchmarks(items, Bootstrap(resamples=2))
    assert round(100 * averages["macro_average"].value, 2) == 30.25
    assert round(100 * averages["micro_average"].value, 2) == 26.55


def test_agrees_with_sklearn():
    generator = np.random.default_rng(0)
    benchmark = np.repeat([0, 1, 2], [50, 7, 23])
    scores = generator.integers(0, 2, 80)
    predicted = np.where(scores == 1, benchmark, (benchmark + 1) % 3)
    items = {str(name): ScoredRows(scores[benchmark == name].tolist()) for name in range(3)}
    averages = average_benchmarks(items)
    assert averages["macro_average"].value == pytest.approx(balanced_accuracy_score(benchmark, predicted))
    assert averages["micro_average"].value == pytest.approx(accuracy_score(benchmark, predicted))


def test_intervals_have_the_variance_of_strata():
    generator = np.random.default_rng(1)
    large, small = generator.random(400), generator.random(100)
    items = {"large": ScoredRows(large.tolist()), "small": ScoredRows(small.tolist())}
    averages = average_benchmarks(items, Bootstrap(resamples=4000))
    variances = np.array([large.var() / 400, small.var() / 100])
    for name, weights in (("macro_average", [0.5, 0.5]), ("micro_average", [0.8, 0.2])):
        width = 2 * 1.96 * np.sqrt(np.square(weights) @ variances)
        assert averages[name].high - averages[name].low == pytest.approx(width, rel=0.08)


def test_clusters_count():
    scores = [float(item % 2) for item in range(40) for _ in range(5)]
    clusters = [item for item in range(40) for _ in range(5)]
    averages = (average_benchmarks({"a": ScoredRows(scores, names)}) for names in (None, clusters))
    alone, shared = (average["macro_average"] for average in averages)
    assert alone.value == shared.value
    assert shared.high - shared.low > 1.8 * (alone.high - alone.low)  # sqrt(5) in expectation


def test_one_benchmark_is_its_own_average():
    items = [1.0, 0.0, 0.5]
    averages = average_benchmarks({"a": ScoredRows(items)})
    assert averages["macro_average"].value == averages["micro_average"].value == estimate_mean(items).value
    assert averages["macro_average"][1:3] == averages["micro_average"][1:3]


def test_nothing_to_average():
    assert average_benchmarks({}) == {}
    with pytest.raises(ValueError, match=r"got none of \['b'\]"):
        average_benchmarks({"a": ScoredRows([1.0]), "b": ScoredRows([])})
