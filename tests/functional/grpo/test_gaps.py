import math

import pytest
import torch

from visplay.functional import effective_sample_size, gap_statistics, logp_gaps

# Two completions of 3 tokens and 1 token.
OLD = torch.tensor([[-1.0, -2.0, -3.0], [-0.5, 0.0, 0.0]])
SAMPLED = torch.tensor([[-1.25, -1.0, -3.0], [-1.25, 0.0, 0.0]])
MASK = torch.tensor([[True, True, True], [True, False, False]])


def test_gaps_by_hand():
    assert logp_gaps(OLD, SAMPLED, MASK).tolist() == [0.25, -1.0, 0.0, 0.75]
    statistics = gap_statistics(logp_gaps(OLD, SAMPLED, MASK), limit=0.5)
    weights = [math.exp(0.25), math.exp(-1.0), 1.0, math.exp(0.75)]
    assert statistics == pytest.approx(
        {
            "logp_gap_mean": 0.5,
            "logp_gap_max": 1.0,
            "logp_gap_beyond_fraction": 0.5,
            "effective_sample_size": sum(weights) ** 2 / (4 * sum(w * w for w in weights)),
        }
    )


def test_a_gap_at_the_limit_is_not_beyond():
    gaps = torch.tensor([0.5, -0.5, 0.75])
    assert gap_statistics(gaps, limit=0.5)["logp_gap_beyond_fraction"] == pytest.approx(1 / 3)


def test_effective_sample_size_by_hand():
    # Ratios 1, 3, 2: 6² / (3 * 14).
    assert effective_sample_size(torch.tensor([1.0, 3.0, 2.0]).log()) == pytest.approx(36 / 42)
    assert effective_sample_size(torch.full((5,), 0.7)) == pytest.approx(1.0)
    assert effective_sample_size(torch.tensor([500.0, 0.0, -500.0, 0.0])) == pytest.approx(0.25)


@pytest.mark.parametrize("garbage", [1e30, math.nan, math.inf, -math.inf])
def test_padding_has_no_influence(garbage):
    dirty = (torch.where(MASK, x, garbage) for x in (OLD, SAMPLED))
    assert logp_gaps(*dirty, MASK).equal(logp_gaps(OLD, SAMPLED, MASK))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gap_that_is_not_finite_shows(bad):
    statistics = gap_statistics(torch.tensor([0.0, bad, 0.0, 0.0]), limit=0.5)
    assert not math.isfinite(statistics["logp_gap_mean"])
    assert not math.isfinite(statistics["logp_gap_max"])
    assert statistics["logp_gap_beyond_fraction"] == 0.25
    assert math.isnan(statistics["effective_sample_size"])


def test_without_a_token_there_is_no_gap():
    assert list(gap_statistics(torch.empty(0), limit=0.5).values()) == [0.0, 0.0, 0.0, 1.0]


def test_gaps_carry_no_gradient():
    assert not logp_gaps(OLD.clone().requires_grad_(), SAMPLED, MASK).requires_grad


def test_refuses_what_does_not_fit():
    with pytest.raises(
        ValueError, match=r"must have one shape, got \{'old_logps': \(2, 3\), 'sampled_logps': \(2, 2\)"
    ):
        logp_gaps(OLD, SAMPLED[:, :2], MASK)
    with pytest.raises(ValueError, match=r"gaps: must have shape \(n,\), got \(2, 3\)"):
        gap_statistics(OLD, 0.5)
    with pytest.raises(ValueError, match=r"gaps: must have shape \(n,\), got \(2, 3\)"):
        effective_sample_size(OLD)


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan])
def test_refuses_a_limit_that_is_not_positive(limit):
    with pytest.raises(ValueError, match=f"limit: must be positive, got {limit}"):
        gap_statistics(torch.zeros(2), limit)
