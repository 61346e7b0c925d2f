import dataclasses

import pytest
import torch

from visplay.functional import FixedLengthWeights, sequence_mean_weights, token_mean_weights

MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])


def test_sequence_mean_by_hand():
    third = 1 / 3
    expected = torch.tensor([[third / 3] * 3 + [0.0], [third, 0.0, 0.0, 0.0], [0.0] * 4])
    torch.testing.assert_close(sequence_mean_weights(MASK), expected)


def test_token_mean_by_hand():
    assert token_mean_weights(MASK).tolist() == [[0.25] * 3 + [0.0], [0.25, 0.0, 0.0, 0.0], [0.0] * 4]


def test_fixed_length_by_hand():
    # 3 completions and 8 tokens each: 1 / 24, whatever the length.
    expected = torch.tensor([[1 / 24] * 3 + [0.0], [1 / 24, 0.0, 0.0, 0.0], [0.0] * 4])
    torch.testing.assert_close(FixedLengthWeights(tokens=8)(MASK), expected)


def test_fixed_length_is_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        FixedLengthWeights(tokens=8).tokens = 9


WEIGHINGS = pytest.mark.parametrize("weigh", [sequence_mean_weights, token_mean_weights, FixedLengthWeights(4)])


@WEIGHINGS
def test_any_mask_gives_float32(weigh):
    for mask in (MASK.bool(), MASK.float(), MASK.double()):
        assert weigh(mask).dtype == torch.float32
        assert weigh(mask).equal(weigh(MASK))


@WEIGHINGS
@pytest.mark.parametrize("shape", [(2, 3), (0, 3), (2, 0)])
def test_nothing_to_weigh(weigh, shape):
    assert weigh(torch.zeros(shape)).equal(torch.zeros(shape))


@WEIGHINGS
def test_refuses_what_is_not_a_batch_of_tokens(weigh):
    with pytest.raises(ValueError, match=r"mask: must have shape \(B, T\), got \(3,\)"):
        weigh(torch.ones(3))


@pytest.mark.parametrize("tokens", [0, -1])
def test_refuses_a_length_below_one(tokens):
    with pytest.raises(ValueError, match=f"tokens: must be at least 1, got {tokens}"):
        FixedLengthWeights(tokens=tokens)
