import math
import random

import pytest

from visplay.functional import LabelAccuracy, estimate_accuracy, harmonic_vote, same_winner, support, vote
from visplay.types import Vote


def _vote(**counts):
    total = sum(counts.values())
    named = tuple(sorted(counts.items(), key=lambda each: -each[1]))
    tied = len(named) > 1 and named[0][1] == named[1][1]
    return Vote(named[0][0], named[0][1] / total, named, total, total, tied)


def test_the_harmonic_vote_by_hand():
    """2 · .6 · .1 / .7 = .171 for a, 2 · .4 · .5 / .9 = .444 for b; c is known to the second alone."""
    both = harmonic_vote(_vote(a=6, b=4), _vote(b=5, c=4, a=1))
    assert (both.answer, both.counts, both.parsed, both.total, both.tied) == (
        "b",
        (("b", 9), ("a", 7), ("c", 4)),
        20,
        20,
        False,
    )
    assert both.confidence == pytest.approx(4 / 9)


def test_equal_harmonic_means_are_a_tie():
    both = harmonic_vote(_vote(a=6, b=4), _vote(b=6, a=4))
    assert both.tied
    assert both.confidence == pytest.approx(0.48)


def test_classes_are_joined_by_meaning():
    both = harmonic_vote(_vote(**{"1/2": 3, "3": 1}), _vote(**{"0.5": 4}))
    assert both.counts == (("1/2", 7), ("3", 1))
    assert both.confidence == pytest.approx(2 * 0.75 / 1.75)


@pytest.mark.parametrize("second", [None, _vote(c=10), Vote(None, 0.0, (), 0, 10)])
def test_without_a_common_answer_there_is_none(second):
    both = harmonic_vote(_vote(a=6, b=4), second)
    assert (both.answer, both.confidence, both.counts) == (None, 0.0, ())


def test_the_harmonic_vote_does_not_depend_on_which_view_is_first_and_is_the_vote_of_equal_ones():
    draw = random.Random(0)
    for _ in range(200):
        one, other = (vote(draw.choices("abcd", k=10)) for _ in range(2))
        there, back = harmonic_vote(one, other), harmonic_vote(other, one)
        assert there.confidence == pytest.approx(back.confidence)
        assert there.tied == back.tied
        assert there.tied or there.answer == back.answer
        same = harmonic_vote(one, one)
        assert (same.confidence, same.tied) == (pytest.approx(one.confidence), one.tied)


def test_support_and_winners():
    assert support(_vote(**{"0.5": 3, "2": 1}), "1/2") == 0.75
    assert support(None, "a") == support(Vote(None, 0.0, (), 0, 4), "a") == 0.0
    assert same_winner(_vote(**{"1/2": 3}), _vote(**{"0.5": 3, "2": 1}))
    assert not same_winner(_vote(a=3), _vote(b=3))
    assert not same_winner(_vote(a=3), _vote(a=2, b=2)), "a tie is for none"
    assert not same_winner(_vote(a=3), None)


def test_the_curve_of_accuracy():
    curve = LabelAccuracy(-1.0, 2.0)
    assert curve(0.5) == 0.5
    assert curve(1.0) == pytest.approx(1 / (1 + math.exp(-1)))
    surer = LabelAccuracy(-1.0, 2.0, 4.0)
    assert surer(0.5) == 0.5, "as sure as of the others"
    assert surer(0.5, 0.25) == pytest.approx(1 / (1 + math.exp(-1)))
    assert surer(1.0, -0.25) == 0.5
    for bad in ({"slope": -1.0}, {"certainty": -1.0}, {"slope": math.nan}, {"intercept": math.inf}):
        with pytest.raises(ValueError, match="intercept, slope"):
            LabelAccuracy(**bad)


def test_the_interval_covers_what_it_says():
    """Of 400 sets of 150 labels that are right with known probabilities 95 % have their truth inside; 2.2 % is 2 SE."""
    draw, inside = random.Random(1), 0
    for _ in range(400):
        probabilities = [draw.random() for _ in range(150)]
        truth = sum(draw.random() < p for p in probabilities) / 150
        estimate = estimate_accuracy(probabilities)
        inside += estimate.low <= truth <= estimate.high
    assert 0.928 <= inside / 400 <= 0.972
    assert estimate_accuracy([]) is None
    assert estimate_accuracy([1.0, 1.0]) == (1.0, 1.0, 1.0, 2)
