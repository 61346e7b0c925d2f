import pytest
import torch

from visplay.recipes.v_zero import dual_track
from visplay.types import Question, Vote


def _asked(answer):
    return Question("How many?", "multiple choice", answer)


def _vote(answer, confidence):
    return Vote(answer, confidence, ((answer, 1),), 10, 10)


def test_rewards_by_hand():
    """The guess is right for the vote: min(c, 1 - c); it is not: c / 2; there is none, or no vote: nothing."""
    questions = [
        [_asked("(B)"), _asked("B"), _asked("a"), _asked("a")],
        [_asked(None), _asked("b"), None, _asked("b")],
    ]
    votes = [
        [_vote("b", 0.75), _vote("b", 0.25), _vote("b", 0.75), _vote("b", 1.0)],
        [_vote("b", 0.75), None, None, Vote(None, 0.0, (), 0, 10)],
    ]
    assert dual_track(questions, votes).tolist() == [[0.25, 0.25, 0.375, 0.5], [0.0] * 4]


@pytest.mark.parametrize("confidence", [0.1, 0.5, 0.9, 1.0])
def test_a_surprise_is_worth_no_less_from_a_third_on(confidence):
    """c / 2 exceeds 1 - c for c > 2/3, and never exceeds c."""
    guessed, corrected = dual_track([[_asked("b"), _asked("a")]], [[_vote("b", confidence)] * 2])[0].tolist()
    assert (corrected > guessed) == (confidence > 2 / 3)


def test_answers_are_compared_as_they_are_graded():
    votes = [[_vote("2", 0.75)] * 2]
    rewards = dual_track([[_asked("two"), _asked("3")]], votes, equivalence=lambda one, other: one == other)
    torch.testing.assert_close(rewards, torch.tensor([[0.25, 0.375]]))
