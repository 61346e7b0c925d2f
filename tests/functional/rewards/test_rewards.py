import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from visplay.functional import (
    TargetDifficulty,
    agreement,
    agreement_rewards,
    batch_redundancy,
    difficulty,
    formatted_agreement_rewards,
    group_redundancy,
    minority_difficulty,
    questioner_rewards,
    signed_questioner_rewards,
)

VALID = torch.tensor([[True, True, False], [True, False, True]])
DIFFICULTY = torch.tensor([[1.0, 0.25, 0.5], [0.0, 1.0, 0.75]])
REDUNDANCY = torch.tensor([[0.25, 0.5, 0.125], [0.125, 0.5, 0.75]])
SHAPES = r"must share one shape \(N, G\), got \[\(2, 3\), \(3, 2\), \(2, 3\)\]"


def test_difficulty_by_hand():
    confidence = torch.tensor([[0.0, 0.25, 0.5], [0.625, 0.75, 1.0]])
    assert difficulty(confidence).tolist() == [[0.0, 0.5, 1.0], [0.75, 0.5, 0.0]]


def test_released_difficulty_by_hand():
    confidence = torch.tensor([[0.0, 0.25, 0.5], [0.625, 0.75, 1.0]])
    assert minority_difficulty(confidence).tolist() == [[0.0, 0.25, 0.5], [0.375, 0.25, 0.0]]


def test_difficulty_that_peaks_elsewhere_by_hand():
    confidence = torch.tensor([[0.0, 0.25, 0.5], [0.625, 0.75, 1.0]])
    assert TargetDifficulty(0.75)(confidence).tolist() == [[0.0, 0.0, 0.0], [0.5, 1.0, 0.0]]
    assert TargetDifficulty(0.25)(confidence).tolist() == [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]


@given(st.lists(st.floats(0, 1, width=32), min_size=1))
def test_difficulty_that_peaks_at_a_half_is_that_of_the_paper(confidences):
    confidence = torch.tensor(confidences)
    torch.testing.assert_close(TargetDifficulty(0.5)(confidence), difficulty(confidence), rtol=0, atol=1e-6)


@pytest.mark.parametrize("target", [0.0, 1.0, -0.5, float("nan")])
def test_difficulty_refuses_a_target_without_room(target):
    with pytest.raises(ValueError, match=r"target: must be inside \(0, 1\), got"):
        TargetDifficulty(target)


@pytest.mark.parametrize("confidence", [-0.1, 1.1, float("nan")])
@pytest.mark.parametrize("function", [difficulty, minority_difficulty, TargetDifficulty(0.75)])
def test_difficulty_refuses_what_is_no_fraction(function, confidence):
    with pytest.raises(ValueError, match=r"confidence: fractions must be in \[0, 1\]"):
        function(torch.tensor([0.5, confidence]))


TEXTS = [
    ["How many dots are there?", "how many dots are there?", "What colour is it?", None],
    ["How many dots are there?", "Name the shape", None, None],
]


def test_redundancy_in_the_group_by_hand():
    assert group_redundancy(TEXTS).tolist() == [[0.5, 0.5, 0.25, 0.0], [0.25, 0.25, 0.0, 0.0]]
    assert group_redundancy(TEXTS).dtype == torch.float32


def test_redundancy_in_the_batch_by_hand():
    assert batch_redundancy(TEXTS).tolist() == [[0.375, 0.375, 0.125, 0.0], [0.375, 0.125, 0.0, 0.0]]
    assert batch_redundancy(TEXTS).dtype == torch.float32


def test_redundancy_in_many_groups_is_that_of_each_by_itself():
    draw = random.Random(3)
    words = ["how", "many", "red", "dots"]
    pool = [None, ""] + [" ".join(draw.choices(words, k=draw.randrange(1, 8))) for _ in range(20)]
    texts = [draw.choices(pool, k=8) for _ in range(60)]
    assert torch.equal(group_redundancy(texts), torch.cat([batch_redundancy([group]) for group in texts]))


def test_redundancy_without_any_question():
    for redundancy in (group_redundancy, batch_redundancy):
        assert redundancy([[None, None]]).tolist() == [[0.0, 0.0]]


def test_published_combination_by_hand():
    assert questioner_rewards(VALID, DIFFICULTY, REDUNDANCY).tolist() == [[0.75, 0.0, 0.0], [0.0, 0.0, 0.0]]


def test_released_combination_by_hand():
    expected = [[0.75, -0.25, -1.125], [-0.125, -1.5, 0.0]]
    assert signed_questioner_rewards(VALID, DIFFICULTY, REDUNDANCY).tolist() == expected


@pytest.mark.parametrize("combine", [questioner_rewards, signed_questioner_rewards])
def test_difficulty_of_an_invalid_question_is_ignored(combine):
    unknown = torch.where(VALID, DIFFICULTY, torch.nan)
    assert torch.equal(combine(VALID, unknown, REDUNDANCY), combine(VALID, DIFFICULTY, REDUNDANCY))


@pytest.mark.parametrize("combine", [questioner_rewards, signed_questioner_rewards])
def test_combinations_refuse_what_does_not_fit(combine):
    with pytest.raises(ValueError, match=SHAPES):
        combine(VALID, DIFFICULTY.T, REDUNDANCY)
    with pytest.raises(ValueError, match=r"got \[\(3,\), \(3,\), \(3,\)\]"):
        combine(VALID[0], DIFFICULTY[0], REDUNDANCY[0])
    with pytest.raises(ValueError, match=r"valid: must be bool, got torch.float32"):
        combine(VALID.float(), DIFFICULTY, REDUNDANCY)


def test_agreement_by_hand():
    assert agreement(["(B)", None, "b", "C", "", "B. red"], silver="B").tolist() == [1.0, 0.0, 1.0, 0.0, 0.0, 1.0]
    assert agreement([], silver="B").shape == (0,)


def test_agreement_grades_each_distinct_answer_once():
    graded = []

    def equivalence(answer, silver):
        return graded.append(answer) or answer == silver

    assert agreement(["2", "2.0", "3", None, "2"], "2", equivalence).tolist() == [1.0, 1.0, 0.0, 0.0, 1.0]
    assert graded == ["2", "3"]


def test_published_and_released_rewards_of_answers_by_hand():
    agrees = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    formatted = torch.tensor([[True, False], [True, False]])
    assert torch.equal(agreement_rewards(agrees, formatted), agrees)
    released = formatted_agreement_rewards(agrees, formatted)
    torch.testing.assert_close(released, torch.tensor([[1.0, 0.9], [0.1, 0.0]]))
    for reward in (agreement_rewards, formatted_agreement_rewards):
        with pytest.raises(ValueError, match=r"agrees, formatted: must share one shape \(N, G\)"):
            reward(agrees, formatted[:1])
