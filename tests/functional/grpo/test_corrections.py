import math

import pytest
import torch

from visplay.functional import sequence_geometric_weights, sequence_sum_weights, token_truncated_weights

CORRECTIONS = pytest.mark.parametrize(
    "correct", [token_truncated_weights, sequence_sum_weights, sequence_geometric_weights]
)

# Completions of 3, 2, 1 and 0 tokens; 99 stands where nothing is counted.
RATIOS = torch.tensor([[2.0, 0.5, 8.0], [0.5, 0.5, 99.0], [3.0, 99.0, 99.0], [99.0, 99.0, 99.0]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]]).bool()


def _check(correct, cap, weights, kept):
    got = correct(RATIOS.log(), MASK, cap)
    torch.testing.assert_close(got[0], torch.tensor(weights))
    assert got[1].tolist() == [[bool(k) for k in row] for row in kept]


def test_token_truncated_by_hand():
    weights = [[2.0, 0.5, 2.5], [0.5, 0.5, 0.0], [2.5, 0.0, 0.0], [0.0, 0.0, 0.0]]
    _check(token_truncated_weights, 2.5, weights, [[1, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0]])


def test_sequence_sum_by_hand():
    # Ratios of the completions: 2 * 0.5 * 8 = 8, 0.25 and 3.
    weights = [[5.0] * 3, [0.25, 0.25, 0.0], [3.0, 0.0, 0.0], [0.0] * 3]
    _check(sequence_sum_weights, 5.0, weights, [[0, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]])


def test_sequence_geometric_by_hand():
    # Geometric means: the cube root of 8, the square root of 0.25, and 3.
    weights = [[2.0] * 3, [0.5, 0.5, 0.0], [2.5, 0.0, 0.0], [0.0] * 3]
    _check(sequence_geometric_weights, 2.5, weights, [[1, 1, 1], [1, 1, 0], [0, 0, 0], [0, 0, 0]])


@CORRECTIONS
def test_without_a_gap_nothing_is_corrected(correct):
    weights, kept = correct(torch.zeros(4, 3), MASK, 1.0)
    assert weights.equal(MASK.float())
    assert kept.equal(MASK)


@CORRECTIONS
@pytest.mark.parametrize("garbage", [1e30, -1e30, math.nan, math.inf, -math.inf])
def test_padding_has_no_influence(correct, garbage):
    clean = correct(RATIOS.log(), MASK, 2.0)
    dirty = correct(torch.where(MASK, RATIOS.log(), garbage), MASK, 2.0)
    assert all(one.equal(other) for one, other in zip(clean, dirty, strict=True))


@CORRECTIONS
def test_log_ratios_are_held_within_twenty(correct):
    weights, kept = correct(torch.tensor([[300.0], [-300.0]]), torch.ones(2, 1), 1e30)
    assert weights.flatten().tolist() == pytest.approx([math.exp(20), math.exp(-20)])
    assert kept.all()


@CORRECTIONS
def test_a_log_ratio_that_is_not_a_number_is_not_hidden(correct):
    weights, kept = correct(torch.tensor([[math.nan], [0.0]]), torch.ones(2, 1), 2.0)
    assert weights.isnan().flatten().tolist() == [True, False]
    assert kept.flatten().tolist() == [False, True]


@CORRECTIONS
def test_weights_carry_no_gradient(correct):
    assert not correct(RATIOS.log().requires_grad_(), MASK, 2.0)[0].requires_grad


@CORRECTIONS
def test_splitting_the_batch_changes_nothing(correct):
    whole = correct(RATIOS.log(), MASK, 2.0)
    parts = [correct(RATIOS.log()[rows], MASK[rows], 2.0) for rows in (slice(0, 1), slice(1, 4))]
    for index, tensor in enumerate(whole):
        assert torch.cat([part[index] for part in parts]).equal(tensor)


@CORRECTIONS
@pytest.mark.parametrize("shape", [(2, 0), (0, 3)])
def test_nothing_to_weigh(correct, shape):
    assert [tuple(part.shape) for part in correct(torch.zeros(shape), torch.ones(shape), 2.0)] == [shape, shape]


@CORRECTIONS
def test_refuses_what_does_not_fit(correct):
    with pytest.raises(ValueError, match=r"one shape \(B, T\), got \{'log_ratios': \(2, 3\), 'mask': \(2, 4\)\}"):
        correct(torch.zeros(2, 3), torch.ones(2, 4), 2.0)
    with pytest.raises(ValueError, match=r"one shape \(B, T\), got \{'log_ratios': \(3,\)"):
        correct(torch.zeros(3), torch.ones(3), 2.0)
    for cap in (0.5, math.nan):
        with pytest.raises(ValueError, match=f"cap: must be at least 1, got {cap}"):
            correct(torch.zeros(2, 3), torch.ones(2, 3), cap)
