import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from visplay.functional import Bootstrap, estimate_mean
from visplay.metrics import JudgeAccuracy, RuleAccuracy, SampledAccuracy


def test_rule_accuracy_agrees_with_sklearn():
    golds, answers = np.random.default_rng(0).integers(0, 3, (2, 50))
    metric = RuleAccuracy()
    metric.update([f"{item:02}" for item in range(50)], (golds == answers).tolist())
    accuracy = metric.compute().metrics["rule_accuracy"]
    assert accuracy.value == accuracy_score(golds, answers)
    assert accuracy == estimate_mean((golds == answers).tolist())


def test_clusters_reach_the_interval():
    keys, verdicts = list("abcdefgh"), [True] * 4 + [False] * 4
    metric, settings = RuleAccuracy(), Bootstrap(resamples=200)
    metric.update(keys, verdicts, ["f"] * 4 + ["g"] * 4)
    assert metric.compute().metrics["rule_accuracy"][:3] == (0.5, 0.0, 1.0)
    partly = RuleAccuracy(settings)
    partly.update(keys, verdicts, ["f"] * 4 + [None] * 4)
    expected = estimate_mean(verdicts, ["f"] * 4 + [1, 2, 3, 4], settings)
    assert partly.compute().metrics["rule_accuracy"] == expected


def test_settings_of_the_bootstrap():
    narrow, wide = RuleAccuracy(Bootstrap(level=0.5)), RuleAccuracy(Bootstrap(level=0.99))
    for metric in (narrow, wide):
        metric.update([str(item) for item in range(40)], [item % 2 == 0 for item in range(40)])
    inner, outer = (metric.compute().metrics["rule_accuracy"] for metric in (narrow, wide))
    assert outer.low < inner.low < 0.5 < inner.high < outer.high


def test_rows_without_a_verdict_keep_the_rule_and_are_counted():
    metric = JudgeAccuracy()
    metric.update(["a", "b", "c"], rule_verdicts=[True, False, True], judge_scores=[False, None, None])
    metric.update(["d"], rule_verdicts=[False], judge_scores=[0.5])
    report = metric.compute()
    assert report.metrics["judge_accuracy"].value == (0 + 0 + 1 + 0.5) / 4
    assert report.counts == {"items": 4, "conflicts": 0, "unjudged": 2}


def test_samples_by_hand():
    metric = SampledAccuracy(samples=4)
    metric.update(["a", "b"], [[True, True, False, False], [False, True, False, False]], [True, False])
    metric.update(["c"], [[True] * 4], [True])
    report = metric.compute()
    assert report.metrics["pass@1"].value == pytest.approx((0.5 + 0.25 + 1) / 3)
    assert report.metrics["majority@4"].value == pytest.approx(2 / 3)
    assert report.counts == {"items": 3, "conflicts": 0}


def test_pass_at_1_is_the_unbiased_estimate():
    """1 - C(n - c, 1) / C(n, 1) = c / n."""
    verdicts = np.random.default_rng(1).integers(0, 2, (30, 8)).astype(bool)
    metric = SampledAccuracy(samples=8)
    metric.update([str(item) for item in range(30)], verdicts.tolist(), [True] * 30)
    wrong = (~verdicts).sum(axis=1)
    assert metric.compute().metrics["pass@1"].value == pytest.approx(np.mean(1 - wrong / 8))


def test_number_of_samples():
    with pytest.raises(ValueError, match="samples: must be at least 1, got 0"):
        SampledAccuracy(0)
    with pytest.raises(ValueError, match="verdicts: need 2 per item, got 1 for item 'b'"):
        SampledAccuracy(2).update(["a", "b"], [[True, True], [True]], [True, True])
