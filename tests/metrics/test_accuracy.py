import math

import pytest

from visplay.metrics import AnswerAccuracy, BenchmarkMetrics, WrongClaimRate


def test_accuracy_and_wrong_claims_by_hand():
    predictions, golds = ["2.0", "no", None, "red circle"], ["2", "yes", "3", "Red circle"]
    accuracy, wrong = AnswerAccuracy(), WrongClaimRate()
    accuracy.update(predictions[:1], golds[:1])
    accuracy.update(predictions[1:], golds[1:])
    wrong.update(predictions, golds)
    assert float(accuracy.compute()) == 2 / 4
    assert float(wrong.compute()) == 1 / 4  # what did not parse claims nothing


def test_nothing_measured_is_not_a_number():
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert math.isnan(float(AnswerAccuracy().compute()))


def test_lengths_must_agree():
    with pytest.raises(ValueError, match=r"zip\(\) argument 2 is longer"):
        AnswerAccuracy().update(["1"], ["1", "2"])


def test_benchmark_metrics_by_hand():
    metrics = BenchmarkMetrics("held", votes=3)
    metrics.update_greedy(["1", "5"], ["1", "2"])
    metrics.update_sampled([["1", "1", "2"], ["2", None, "3"]], ["1", "2"])
    assert metrics.compute() == {
        "held_greedy": 0.5,
        "held_wrong_claims": 0.5,
        "held_sampled": pytest.approx(3 / 6),
        "held_majority": 1.0,
    }


def test_sampled_measures_only_where_samples_are_drawn():
    metrics = BenchmarkMetrics("held", votes=0)
    metrics.update_greedy(["1"], ["1"])
    assert set(metrics.compute()) == {"held_greedy", "held_wrong_claims"}
