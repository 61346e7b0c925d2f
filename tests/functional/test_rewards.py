import pytest
import torch

from visplay.functional import agreement, difficulty, questioner_rewards, redundancy, rewards, signed_questioner_rewards

VALID = torch.tensor([[True, True, False], [True, False, True]])
DIFFICULTY = torch.tensor([[1.0, 0.25, 0.5], [0.0, 1.0, 0.75]])
REDUNDANCY = torch.tensor([[0.25, 0.5, 0.125], [0.125, 0.5, 0.75]])
SHAPES = r"must share one shape \(N, G\), got \[\(2, 3\), \(3, 2\), \(2, 3\)\]"


def test_difficulty_by_hand():
    confidence = torch.tensor([[0.0, 0.25, 0.5], [0.625, 0.75, 1.0]])
    assert difficulty(confidence).tolist() == [[0.0, 0.5, 1.0], [0.75, 0.5, 0.0]]


@pytest.mark.parametrize("confidence", [-0.1, 1.1, float("nan")])
def test_difficulty_refuses_what_is_no_share(confidence):
    with pytest.raises(ValueError, match=r"confidence: shares must lie in \[0, 1\]"):
        difficulty(torch.tensor([0.5, confidence]))


def test_redundancy_by_hand():
    texts = ["How many dots are there?", "how many dots are there?", "What colour is it?", "Name the shape"]
    assert redundancy(texts).tolist() == [0.5, 0.5, 0.25, 0.25]
    assert redundancy(texts, weight=0.5).tolist() == [0.25, 0.25, 0.125, 0.125]
    assert redundancy(texts).dtype == torch.float32


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


def test_agreement_grades_each_distinct_answer_once(monkeypatch):
    graded = []
    monkeypatch.setattr(rewards, "equivalent", lambda answer, silver: graded.append(answer) or answer == silver)
    assert agreement(["2", "2.0", "3", None, "2"], silver="2").tolist() == [1.0, 1.0, 0.0, 0.0, 1.0]
    assert graded == ["2", "3"]
