"""Weights that correct for an engine whose probabilities are not quite those of the policy that is trained.

Each multiplies the policy term of the loss by a truncated importance ratio of the policy to the engine. Three ratios,
under three names: others call both the second and the third one "sequence".
"""

from __future__ import annotations

import torch
from torch import Tensor

_MAX_LOG_RATIO = 20.0


def token_truncated_weights(log_ratios: Tensor, mask: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """Weigh each token by its own ratio: min(exp(d_bt), cap), with d the log-ratio.

    Truncated importance sampling: Yao et al., "Your efficient RL framework secretly brings you off-policy RL training"
    (2025). Low variance; biased, as the tokens before the present one are not accounted for. d is held within ±20.

    Args:
        log_ratios: (B, T) log-probabilities under the policy less those that the engine reported, in nats.
        mask: (B, T) true at tokens that count; what stands elsewhere has no influence.
        cap: Largest weight, at least 1.

    Returns:
        Weights (B, T), detached, 0 where ``mask`` is false, and (B, T) bool, true at tokens that count and were not
        truncated.

    Raises:
        ValueError: The shapes differ or are not (B, T), or ``cap`` is below 1.

    Example:
        >>> weights, kept = token_truncated_weights(torch.tensor([[0.5, 4.0]]).log(), torch.ones(1, 2), cap=2.0)
        >>> weights.tolist(), kept.tolist()
        ([[0.5, 2.0]], [[True, False]])
    """
    return _truncate(_counted(log_ratios, mask), mask, cap)


def sequence_sum_weights(log_ratios: Tensor, mask: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """Weigh all tokens of a completion by the ratio of the completion: min(exp(sum_t d_bt), cap).

    But for the truncation unbiased; its variance grows with the length, exponentially: for long completions most
    weights lie near 0 or at ``cap``. TRL calls this "sequence". The sum is held within ±20.

    Args:
        log_ratios: (B, T) log-probabilities under the policy less those that the engine reported, in nats.
        mask: (B, T) true at tokens that count; what stands elsewhere has no influence.
        cap: Largest weight, at least 1.

    Returns:
        Weights and kept tokens, both (B, T), as from ``token_truncated_weights``; equal over the tokens of a row.

    Raises:
        ValueError: The shapes differ or are not (B, T), or ``cap`` is below 1.

    Example:
        >>> weights, kept = sequence_sum_weights(torch.tensor([[0.5, 3.0]]).log(), torch.ones(1, 2), cap=2.0)
        >>> weights.tolist(), kept.tolist()
        ([[1.5, 1.5]], [[True, True]])
    """
    return _truncate(_counted(log_ratios, mask).sum(1, keepdim=True).expand_as(mask), mask, cap)


def sequence_geometric_weights(log_ratios: Tensor, mask: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """Weigh all tokens of a completion by the geometric mean of their ratios: min(exp(mean_t d_bt), cap).

    The ratio of GSPO (arXiv 2507.18071, Eq. 7). Low variance whatever the length; biased, as it is no ratio of
    probabilities of anything. ms-swift calls this "sequence". The mean is held within ±20.

    Args:
        log_ratios: (B, T) log-probabilities under the policy less those that the engine reported, in nats.
        mask: (B, T) true at tokens that count; what stands elsewhere has no influence.
        cap: Largest weight, at least 1.

    Returns:
        Weights and kept tokens, both (B, T), as from ``token_truncated_weights``; equal over the tokens of a row.

    Raises:
        ValueError: The shapes differ or are not (B, T), or ``cap`` is below 1.

    Example:
        >>> weights, kept = sequence_geometric_weights(torch.tensor([[1.0, 9.0]]).log(), torch.ones(1, 2), cap=2.0)
        >>> weights.tolist(), kept.tolist()
        ([[2.0, 2.0]], [[False, False]])
    """
    mean = _counted(log_ratios, mask).sum(1, keepdim=True) / mask.bool().sum(1, keepdim=True).clamp(min=1)
    return _truncate(mean.expand_as(mask), mask, cap)


def _counted(log_ratios: Tensor, mask: Tensor) -> Tensor:
    """Log-ratios (B, T), detached, 0 where the mask is false."""
    if log_ratios.ndim != 2 or log_ratios.shape != mask.shape:
        shapes = {"log_ratios": tuple(log_ratios.shape), "mask": tuple(mask.shape)}
        raise ValueError(f"{', '.join(shapes)}: must have one shape (B, T), got {shapes}")
    return torch.where(mask.bool(), log_ratios.detach(), 0.0)


def _truncate(log_weights: Tensor, mask: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    if not cap >= 1.0:
        raise ValueError(f"cap: must be at least 1, got {cap}")
    weights = log_weights.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()
    return weights.clamp(max=cap) * mask.bool(), (weights <= cap) & mask.bool()
