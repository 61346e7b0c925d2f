"""What holds for every metric over items: order, ranks, duplicates and conflicts."""

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from visplay.functional import Bootstrap
from visplay.metrics import (
    BenchmarkAverage,
    HallusionBenchAccuracy,
    JudgeAccuracy,
    MMMUAccuracy,
    MMVetScore,
    PairedComparison,
    RuleAccuracy,
    SampledAccuracy,
)

FEW = Bootstrap(resamples=15)
KEYS = [f"item/{number}\n\u2028" for number in range(12)]
RIGHT = {key: number % 3 != 1 for number, key in enumerate(KEYS)}
SCORE = {key: None if number % 4 == 3 else number / 12 for number, key in enumerate(KEYS)}
FIGURE = {key: f"figure {number // 2}" if number < 9 else None for number, key in enumerate(KEYS)}


def _by(values, keys):
    return [values[key] for key in keys]


def _hallusion(metric, keys):
    figures = [FIGURE[key] or "" for key in keys]
    metric.update(keys, _by(RIGHT, keys), [key[:5] for key in keys], figures)


def _compare(metric, keys):
    metric.update("before", keys, _by(RIGHT, keys), _by(FIGURE, keys))
    metric.update("after", keys, [not RIGHT[key] for key in keys])


def _sample(metric, keys):
    metric.update(keys, [[RIGHT[key], True] for key in keys], _by(RIGHT, keys), _by(FIGURE, keys))


METRICS = {
    "rule": (RuleAccuracy, lambda metric, keys: metric.update(keys, _by(RIGHT, keys), _by(FIGURE, keys))),
    "judge": (JudgeAccuracy, lambda metric, keys: metric.update(keys, _by(RIGHT, keys), _by(SCORE, keys))),
    "sampled": (lambda **settings: SampledAccuracy(2, **settings), _sample),
    "hallusion": (HallusionBenchAccuracy, _hallusion),
    "mmmu": (MMMUAccuracy, lambda metric, keys: metric.update(keys, _by(RIGHT, keys), [key[4:5] for key in keys])),
    "mmvet": (
        MMVetScore,
        lambda metric, keys: metric.update(keys, _by(RIGHT, keys), _by(SCORE, keys), [["a", key[4]] for key in keys]),
    ),
    "average": (BenchmarkAverage, lambda metric, keys: [metric.update(key[4:5], [key], [RIGHT[key]]) for key in keys]),
    "comparison": (PairedComparison, _compare),
}
EACH = pytest.mark.parametrize("name", METRICS)


@EACH
@given(data=st.data())
def test_neither_order_nor_ranks_nor_duplicates_matter(spread, name, data):
    """Every rank is given some batches; items come in any order, and some again, on the same rank or another."""
    kind, update = METRICS[name]
    keys = data.draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=20), label="keys")
    ranks = data.draw(st.integers(1, 4), label="ranks")
    places = data.draw(st.lists(st.integers(0, ranks - 1), min_size=len(keys), max_size=len(keys)), label="places")
    parts = [[[key] for key, place in zip(keys, places, strict=True) if place == rank] for rank in range(ranks)]
    reference = kind(bootstrap=FEW)
    update(reference, sorted(set(keys)))
    expected = repr(reference.compute())
    assert {repr(said) for said in spread(lambda: kind(bootstrap=FEW), parts, update)} == {expected}


@EACH
def test_counting_starts_afresh_after_reset(name):
    kind, update = METRICS[name]
    metric, fresh = kind(bootstrap=FEW), kind(bootstrap=FEW)
    update(metric, KEYS[:7])
    metric.compute()
    metric.reset()
    update(metric, KEYS[5:])
    update(fresh, KEYS[5:])
    assert repr(metric.compute()) == repr(fresh.compute())


@EACH
def test_computing_in_between_changes_nothing(name):
    kind, update = METRICS[name]
    metric, whole = kind(bootstrap=FEW), kind(bootstrap=FEW)
    update(metric, KEYS[:7])
    metric.compute()
    update(pickle.loads(pickle.dumps(metric)), KEYS[7:])
    update(metric, KEYS[7:])
    update(whole, KEYS)
    assert repr(metric.compute()) == repr(whole.compute())


def test_the_lower_of_two_results_counts_and_is_a_conflict(spread):
    for parts in ([[True], [False]], [[False], [True]]):
        results = spread(RuleAccuracy, parts, lambda metric, verdict: metric.update(["a"], [verdict]))
        for report in results:
            assert report.metrics["rule_accuracy"].value == 0.0
            assert report.counts == {"items": 1, "conflicts": 1}


def test_a_judged_result_wins_over_one_by_rule(spread):
    for parts in ([[None], [1.0]], [[1.0], [None]]):
        results = spread(JudgeAccuracy, parts, lambda metric, score: metric.update(["a"], [False], [score]))
        for report in results:
            assert report.metrics["judge_accuracy"].value == 1.0
            assert report.counts == {"items": 1, "conflicts": 1, "unjudged": 0}


def test_the_state_is_bytes():
    metric = RuleAccuracy()
    metric.update(KEYS, [True] * len(KEYS))
    assert [chunk.dtype for chunk in metric.items] == [torch.uint8]
    assert metric.dtype == torch.uint8


def test_empty_batches_add_nothing():
    metric = RuleAccuracy()
    metric.update([], [])
    assert repr(metric.compute()) == (
        "Report(metrics={'rule_accuracy': Estimate(value=nan, low=nan, high=nan, size=0)}, "
        "counts={'items': 0, 'conflicts': 0})"
    )


@pytest.mark.parametrize("score", [-0.1, 1.5, float("nan")])
def test_scores_out_of_range_are_rejected(score):
    with pytest.raises(ValueError, match="scores: must lie in .* for item 'b'"):
        BenchmarkAverage().update("x", ["a", "b"], [1.0, score])


def test_columns_of_one_length():
    with pytest.raises(ValueError, match="keys, scores, cluster: must have one length, got .*'scores': 2"):
        RuleAccuracy().update(["a"], [True, False])
    with pytest.raises(ValueError, match="'cluster': 2"):
        RuleAccuracy().update(["a"], [True], ["f", "g"])
