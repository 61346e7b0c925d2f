import math

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from visplay.statistics.raters import (
    agreement_table,
    cohen_kappa,
    compare_all_raters,
    compare_raters,
    final_score,
    judge_score,
)


@pytest.mark.parametrize("labels", [2, 3, 11])
@pytest.mark.parametrize("noise", [0.0, 0.2, 1.0])
def test_kappa_is_that_of_scikit_learn(labels, noise):
    generator = np.random.default_rng(labels)
    first = generator.integers(labels, size=200)
    drawn = generator.integers(labels, size=200)
    second = np.where(generator.random(200) < noise, drawn, first)
    ours = cohen_kappa(first.tolist(), second.tolist())
    assert ours == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)


def test_kappa_of_total_disagreement_is_negative():
    first, second = [True, True, False, False], [False, False, True, True]
    assert cohen_kappa(first, second) == cohen_kappa_score(first, second) == -1.0


@pytest.mark.parametrize("labels", [[], [True], [True] * 5])
def test_kappa_is_undefined_where_nothing_varies(labels):
    assert math.isnan(cohen_kappa(labels, labels))


def test_kappa_is_zero_where_only_one_rater_varies():
    assert cohen_kappa([True, True], [True, False]) == 0.0


def test_kappa_refuses_other_lengths():
    with pytest.raises(ValueError, match="must have one length, got 1 and 2"):
        cohen_kappa([True], [True, False])


RULE = {"a": True, "b": False, "c": True, "d": False, "e": True, "f": None}
JUDGE = {"f": True, "e": None, "d": True, "c": True, "b": False, "a": False}


def test_a_comparison_counts_each_row_once_and_names_those_that_differ():
    report = compare_raters(RULE, JUDGE)  # a: first only, b: wrong, c: right, d: second only, e and f: unrated
    assert (report.both_right, report.both_wrong) == (1, 1)
    assert (report.first_only, report.second_only, report.unrated) == (("a",), ("d",), ("e", "f"))
    assert report.differing == ("a", "d")
    assert (report.items, report.agreement, report.kappa) == (4, 0.5, 0.0)


def test_no_rated_row_leaves_everything_undefined():
    report = compare_raters({"a": None}, {"a": True})
    assert report.items == 0
    assert math.isnan(report.agreement)
    assert math.isnan(report.kappa)


def test_rows_must_be_the_same():
    with pytest.raises(ValueError, match=r"must have the same items; 2 differ, such as \['a', 'b'\]"):
        compare_raters({"a": True}, {"b": True})


def test_every_two_raters_are_compared():
    reports = compare_all_raters({"rule": RULE, "one": JUDGE, "other": JUDGE})
    assert list(reports) == [("rule", "one"), ("rule", "other"), ("one", "other")]
    assert reports["one", "other"].agreement == 1.0
    assert agreement_table(reports).splitlines()[2:] == [
        "| rule, one | 4 | 50.0 % | 0.000 | 1 | 1 | 2 |",
        "| rule, other | 4 | 50.0 % | 0.000 | 1 | 1 | 2 |",
        "| one, other | 5 | 100.0 % | 1.000 | 0 | 0 | 1 |",
    ]


@pytest.mark.parametrize("rule", [True, False])
@pytest.mark.parametrize(
    ("correct", "score", "judged"),
    [(True, None, 1.0), (False, None, 0.0), (True, 0.3, 0.3), (False, 0.0, 0.0), (None, None, None)],
)
def test_the_rule_stands_only_where_judging_failed(rule, correct, score, judged):
    assert judge_score(correct, score) == judged
    assert final_score(rule, judged) == (rule if correct is None else judged)
