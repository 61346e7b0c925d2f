import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from visplay.functional import Bootstrap, Estimate, bootstrap_means, estimate_mean, format_estimate, percentile_interval
from visplay.statistics.intervals import estimate_mean_of_runs

SCORES = st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=2, max_size=30)


def test_two_rows_have_three_possible_means():
    means = bootstrap_means([0.0, 1.0], bootstrap=Bootstrap(resamples=4000, seed=3))
    values, counts = np.unique(means, return_counts=True)
    assert values.tolist() == [0.0, 0.5, 1.0]
    assert counts / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)  # four standard errors


def test_rows_of_a_cluster_are_drawn_together():
    means = bootstrap_means([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"], Bootstrap(resamples=200))
    assert set(means.tolist()) == {0.0, 0.75, 1.0}  # b b, a b, a a: weighted by items, not by clusters


def test_percentiles_by_hand():
    means = np.arange(101) / 100
    assert percentile_interval(means, 0.9) == pytest.approx((0.05, 0.95))


def test_estimate_by_hand():
    estimate = estimate_mean([1.0, 0.0, 1.0, 1.0])
    assert (estimate.value, estimate.size) == (0.75, 4)
    assert estimate.low == 0.25
    assert estimate.high == 1.0


@pytest.mark.parametrize("clusters", [None, ["a"]])
def test_one_cluster_says_nothing_of_the_spread(clusters):
    estimate = estimate_mean([1.0], clusters)
    assert estimate.value == 1.0
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)


def test_nothing_is_not_a_number():
    estimate = estimate_mean([])
    assert all(math.isnan(value) for value in estimate[:3])
    assert estimate.size == 0


def test_estimates_as_text():
    assert format_estimate(Estimate(0.12345, 0.1, 0.2, 9)) == "12.3 [10.0, 20.0]"
    assert format_estimate(None) == "unavailable"


def test_bootstrap_of_verdicts_is_binomial():
    items, right = 200, 60
    estimate = estimate_mean([1.0] * right + [0.0] * (items - right), bootstrap=Bootstrap(resamples=20_000))
    exact = stats.binom(items, right / items).ppf([0.025, 0.975]) / items
    assert (estimate.low, estimate.high) == pytest.approx(exact, abs=1.01 / items)  # a step of the lattice


def test_agrees_with_scipy():
    scores = np.random.default_rng(1).random(80)
    ours = estimate_mean(scores.tolist(), bootstrap=Bootstrap(resamples=20_000, level=0.9))
    theirs = stats.bootstrap(
        (scores,), np.mean, n_resamples=20_000, confidence_level=0.9, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    error = 4 * scores.std() / math.sqrt(80) * 2.1 / math.sqrt(20_000)  # sqrt(q (1 - q)) / density at q = 0.05
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=math.sqrt(2) * error)


def test_equal_clusters_are_a_bootstrap_of_their_means():
    scores = np.random.default_rng(4).integers(0, 2, (40, 3))
    clusters = [f"figure {item // 3}" for item in range(120)]
    expected = bootstrap_means(scores.mean(axis=1).tolist())
    assert bootstrap_means(scores.ravel().tolist(), clusters) == pytest.approx(expected, abs=1e-12)


def test_ragged_clusters_have_the_variance_of_a_ratio():
    generator = np.random.default_rng(5)
    sizes = generator.integers(1, 8, 300)
    clusters = np.repeat(np.arange(300), sizes)
    scores = (generator.random(300)[clusters] > 0.4).astype(float)
    totals = np.bincount(clusters, weights=scores)
    linearised = np.sum((totals - scores.mean() * sizes) ** 2) / sizes.sum() ** 2
    means = bootstrap_means(scores.tolist(), clusters.tolist(), Bootstrap(resamples=4000))
    assert means.std() == pytest.approx(math.sqrt(linearised), rel=0.06)


def _covered(clusters: np.ndarray, shared: bool, seed: int) -> float:
    """Fraction of 300 simulated benchmarks whose interval covers the true accuracy, 0.7; items of a cluster agree."""
    generator = np.random.default_rng(seed)
    hits = 0
    for trial in range(300):
        scores = (generator.random(clusters.max() + 1)[clusters] < 0.7).astype(float).tolist()
        interval = estimate_mean(scores, clusters.tolist() if shared else None, Bootstrap(resamples=300, seed=trial))
        hits += interval.low <= 0.7 <= interval.high
    return hits / 300


def test_intervals_cover():
    assert 0.91 <= _covered(np.arange(120), shared=False, seed=6) <= 0.98


def test_only_the_cluster_bootstrap_covers_rows_that_share_figures():
    clusters = np.repeat(np.arange(80), 5)
    assert 0.91 <= _covered(clusters, shared=True, seed=7) <= 0.98
    assert _covered(clusters, shared=False, seed=7) < 0.75


@given(SCORES, st.integers(0, 5))
def test_seed_decides_and_means_stay_within_the_scores(scores, seed):
    means = bootstrap_means(scores, bootstrap=Bootstrap(resamples=30, seed=seed))
    assert means.tolist() == bootstrap_means(scores, bootstrap=Bootstrap(resamples=30, seed=seed)).tolist()
    assert min(scores) - 1e-12 <= means.min()
    assert means.max() <= max(scores) + 1e-12


@given(SCORES)
def test_names_of_clusters_do_not_matter(scores):
    alone = bootstrap_means(scores, list(range(len(scores))), Bootstrap(resamples=20))
    assert alone.tolist() == bootstrap_means(scores, bootstrap=Bootstrap(resamples=20)).tolist()


def test_many_rows_are_drawn_in_parts_that_differ():
    means = bootstrap_means([0.0, 1.0] * 300_000, bootstrap=Bootstrap(resamples=3))
    assert len(set(means.tolist())) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resamples": 0}, "resamples: .* got 0"),
        ({"level": 1.0}, "level: .* got 1.0"),
        ({"seed": -1}, "seed: .* got -1"),
    ],
)
def test_refused_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Bootstrap(**settings)


def test_every_row_needs_a_cluster():
    with pytest.raises(ValueError, match="got 1 names and 2 scores"):
        bootstrap_means([0.0, 1.0], ["a"])


def test_runs_against_scipy():
    values = [0.71, 0.74, 0.69, 0.72, 0.73]
    low, high = stats.t.interval(0.9, 4, np.mean(values), stats.sem(values))
    assert estimate_mean_of_runs(values, 0.9) == pytest.approx((0.718, low, high, 5))


def test_one_run_has_no_interval():
    value, low, high, size = estimate_mean_of_runs([0.7])
    assert (value, size) == (0.7, 1)
    assert math.isnan(low)
    assert math.isnan(high)
    assert math.isnan(estimate_mean_of_runs([]).value)
