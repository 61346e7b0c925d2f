import pytest

from visplay.functional import LabelAccuracy
from visplay.functional.prospects import Prospects, Requirements, single_answer_accuracy
from visplay.types import Vote

GOOD = {
    "valid": 0.9,
    "repeated": 0.1,
    "kept": 0.5,
    "blind": 0.2,
    "vote_accuracy": 0.7,
    "single_accuracy": 0.5,
    "kept_accuracy": 0.8,
}


def test_head_room_is_what_the_vote_adds():
    assert Prospects(**GOOD).head_room == pytest.approx(0.2)
    assert Requirements().unmet(Prospects(**GOOD)) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"valid": 0.4}, "too few questions are valid: 0.40 of them, and 0.50"),
        ({"kept": 0.05}, "the gates keep too few questions: 0.05 of them, and 0.10"),
        ({"single_accuracy": 0.69}, "hardly more often than a single answer: 0.70 against 0.69, and 0.14"),
        ({"kept_accuracy": 0.3}, "too many labels are wrong: 0.30 of those kept are right, and 0.40"),
        ({"blind": 0.9}, "the images are hardly needed: 0.90 of the labels are given without them, and at most 0.65"),
    ],
)
def test_each_requirement_is_named_where_it_is_not_met(change, reason):
    (said,) = Requirements().unmet(Prospects(**GOOD | change))
    assert reason in said


def test_without_a_kept_question_nothing_is_said_of_their_labels():
    (said,) = Requirements().unmet(Prospects(**GOOD | {"kept": 0.0, "kept_accuracy": 0.0}))
    assert said.startswith("the gates keep too few")


def test_a_single_answer_by_hand():
    """p s + (1 - p) r with s = .5 and r = .3; an answer of no support leaves r = .5."""
    second = Vote("2", 0.5, (("2", 5), ("3", 3), ("4", 2)), 10, 10)
    curve = LabelAccuracy(0.0, 2.0)
    p = curve(0.5)
    assert single_answer_accuracy("2.0", second, curve) == pytest.approx(p * 0.5 + (1 - p) * 0.3)
    assert single_answer_accuracy("7", second, curve) == pytest.approx(curve(0.0) * 0 + (1 - curve(0.0)) * 0.5)
    assert single_answer_accuracy("7", Vote(None, 0.0, (), 0, 10), curve) == 0.0
