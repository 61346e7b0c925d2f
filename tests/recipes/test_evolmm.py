import math

import pytest
import torch

from visplay.functional import equivalent
from visplay.recipes.evolmm import EntropyBandPass, SoftAgreement
from visplay.types import Vote


def _vote(*counts):
    return Vote("0", counts[0] / sum(counts), tuple((str(n), c) for n, c in enumerate(counts)), sum(counts), 5)


def test_questions_are_paid_for_entropy_by_hand():
    votes = [[_vote(5), _vote(3, 2), _vote(2, 2, 1)], [_vote(1, 1, 1, 1, 1), _vote(2, 2), None]]
    # H = 0, .6730, 1.0549; 1.6094 and .6931, and 0 where there was no vote: exp(-(H - .9)² / .245)
    expected = torch.tensor([[0.0367, 0.8103, 0.9067], [0.1281, 0.8398, 0.0367]])
    torch.testing.assert_close(EntropyBandPass()([[None] * 3] * 2, votes, equivalent), expected, atol=1e-4, rtol=0)


def test_the_band_has_a_centre_and_a_width():
    band = EntropyBandPass(centre=math.log(2), width=0.1)
    assert band([[None]], [[_vote(2, 2)]], equivalent).item() == 1.0
    assert band([[None]], [[_vote(4)]], equivalent).item() == pytest.approx(math.exp(-((math.log(2) / 0.1) ** 2) / 2))
    with pytest.raises(ValueError, match="width: must be positive, got 0"):
        EntropyBandPass(width=0)


def test_answers_are_paid_for_agreement_by_hand():
    texts = [
        ["\\boxed{2}", "one two three four five six \\boxed{2}", "1 2 3 4 5 6 7 8 9 \\boxed{3}"],
        ["a " * 12 + "\\boxed{1}", "a " * 30 + "\\boxed{1}", "a " * 9 + "no box"],
    ]
    shares = torch.tensor([[0.6, 0.6, 0.2], [0.4, 1.0, 0.0]])
    expected = [[0.6**0.7, 0.6**0.7, 0.2**0.7 * 0.95], [0.4**0.7 * 0.9, 0.9, 0.0]]
    torch.testing.assert_close(SoftAgreement()(texts, shares), torch.tensor(expected))


def test_words_after_an_earlier_box_count():
    texts = [["\\boxed{1} a b c d e f g h \\boxed{2}"]]  # the first box is a word, as any other
    torch.testing.assert_close(SoftAgreement()(texts, torch.ones(1, 1)), torch.tensor([[1 - 0.1 * 3 / 6]]))


def test_a_target_of_no_words():
    with pytest.raises(ValueError, match="target_words: 0 must be at least 1"):
        SoftAgreement(target_words=0)
