import math

import numpy as np
import pytest
from scipy import stats

from visplay.functional import Bootstrap, compare_paired, mcnemar_p_value


def test_comparison_by_hand():
    before = {"a": 0, "b": 0, "c": 1, "d": 1, "e": 0}
    after = {"e": 1, "d": 0, "c": 1, "b": 1, "a": 1}
    result = compare_paired(before, after)
    assert (result.before, result.after) == (0.4, 0.8)
    assert result.difference.value == pytest.approx(0.4)
    assert result.difference.size == 5
    assert (result.gained, result.lost) == (3, 1)
    assert result.p_value == 0.625  # 2 (1 + 4) / 16
    assert result.difference.low < 0 < result.difference.high
    assert (result.missing_before, result.missing_after) == ((), ())


def test_mcnemar_agrees_with_scipy():
    for gained in range(25):
        for lost in range(25):
            expected = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
            assert mcnemar_p_value(gained, lost) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_a_large_table():
    assert mcnemar_p_value(700, 500) == pytest.approx(stats.binomtest(700, 1200).pvalue, rel=1e-6)


def test_negative_counts_are_rejected():
    with pytest.raises(ValueError, match="got -1 and 2"):
        mcnemar_p_value(-1, 2)


def test_missing_rows_are_refused_by_key():
    with pytest.raises(ValueError, match=r"before lacks 1 items \['c'\] and after 2 items \['a', 'd'\]"):
        compare_paired({"a": 1, "b": 1, "d": 0}, {"b": 1, "c": 0})


def test_missing_rows_are_counted():
    result = compare_paired({"a": 1, "b": 1, "d": 0}, {"b": 0, "c": 0}, on_missing="count")
    assert (result.missing_before, result.missing_after) == (("c",), ("a", "d"))
    assert (result.before, result.after, result.difference.size) == (1.0, 0.0, 1)
    assert math.isnan(result.difference.low)


def test_no_common_row():
    result = compare_paired({"a": 1}, {"b": 1}, on_missing="count")
    assert math.isnan(result.difference.value)
    assert (result.gained, result.lost, result.p_value) == (0, 0, 1.0)


def test_unknown_way_with_missing_rows():
    with pytest.raises(ValueError, match="on_missing: .* got 'ignore'"):
        compare_paired({}, {}, on_missing="ignore")


def test_graded_scores_have_no_mcnemar_test():
    result = compare_paired({"a": 0.5, "b": 0.0}, {"a": 1.0, "b": 0.0})
    assert result.difference.value == 0.25
    assert (result.gained, result.lost, result.p_value) == (None, None, None)


def test_pairing_agrees_with_scipy():
    generator = np.random.default_rng(0)
    before = generator.random(100)
    after = np.clip(before + generator.normal(0.05, 0.1, 100), 0, 1)
    sides = ({str(item): value for item, value in enumerate(side)} for side in (before.tolist(), after.tolist()))
    ours = compare_paired(*sides, bootstrap=Bootstrap(resamples=20_000)).difference
    theirs = stats.bootstrap(
        (after, before),
        lambda one, other, axis: one.mean(axis=axis) - other.mean(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    error = 4 * (after - before).std() / 10 * 2.7 / math.sqrt(20_000)  # sqrt(q (1 - q)) / density at q = 0.025
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=math.sqrt(2) * error)
    unpaired = 2 * 1.96 * math.sqrt((before.var() + after.var()) / 100)
    assert ours.high - ours.low < 0.4 * unpaired


def test_rows_that_share_a_figure_widen_the_interval():
    items = range(200)
    before, after = {str(item): 0.0 for item in items}, {str(item): float(item // 5 % 2) for item in items}
    alone = compare_paired(before, after).difference
    shared = compare_paired(before, after, {str(item): item // 5 for item in items}).difference
    assert shared.high - shared.low > 1.8 * (alone.high - alone.low)  # sqrt(5) in expectation


def test_rows_without_a_cluster_stand_alone():
    before, after = dict.fromkeys("abcd", 0.0), {"a": 1.0, "b": 0.0, "c": 1.0, "d": 0.0}
    assert compare_paired(before, after, {}).difference == compare_paired(before, after).difference


def test_order_of_the_rows_does_not_matter():
    before, after = {"a": 0.0, "b": 1.0, "c": 0.3}, {"c": 1.0, "a": 1.0, "b": 0.1}
    assert compare_paired(before, after) == compare_paired(dict(reversed(before.items())), after)
