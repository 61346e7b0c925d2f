import pytest

from visplay.functional import mean_margin, own_answer_agreement, repeated_fraction
from visplay.types import Question, Vote


def _vote(answer):
    return Vote(answer, 1.0 if answer else 0.0, ((answer, 4),) if answer else (), 4 if answer else 0, 4)


@pytest.mark.parametrize(
    ("texts", "before", "share"),
    [
        ([], (), 0.0),
        (["a", "b", "c"], (), 0.0),
        (["How many?", "how  MANY?", "how many?", "Which?"], (), 2 / 4),
        (["a", "b"], {"b", "c"}, 1 / 2),
        (["a", "a"], {"a"}, 1.0),
    ],
)
def test_repeated_questions_by_hand(texts, before, share):
    assert repeated_fraction(texts, before) == share


def test_mean_margin_by_hand():
    votes = [
        Vote("a", 0.6, (("a", 3), ("b", 1), ("c", 1)), 5, 10),
        Vote("a", 1.0, (("a", 2),), 2, 2),
        None,
        _vote(None),
    ]
    assert mean_margin(votes) == pytest.approx((2 / 5 + 1) / 2)
    assert mean_margin([None]) == 0.0


def test_own_answers_by_hand():
    questions = [
        Question("a?", "numerical", "2.0"),
        Question("b?", "numerical", "3"),
        Question("c?", "numerical"),
        None,
        Question("d?", "numerical", "7"),
        Question("e?", "numerical", "7"),
    ]
    votes = [_vote("2"), _vote("4"), _vote("1"), None, _vote(None), None]
    assert own_answer_agreement(questions, votes) == 1 / 2
    assert own_answer_agreement(questions[2:], votes[2:]) is None
