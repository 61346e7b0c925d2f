"""Estimators of KL(policy || reference), token by token, from the log-probabilities of sampled tokens.

All from Schulman, "Approximating KL divergence" (2020), http://joschu.net/blog/kl-approx.html. As in the released code
of VisPlay, the log-ratio is held within ±20 and an estimate within ±clamp; a token beyond either has no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MAX_LOG_RATIO = 20.0


def k1_kl(logps: Tensor, reference_logps: Tensor, *, clamp: float | None = 10.0) -> Tensor:
    """Estimate by the log-ratio itself: logps - reference_logps.

    Unbiased in value, of high variance, negative for some tokens. As a loss term it does nothing: its gradient is that
    of the log-probability, whose mean over samples of the policy is zero. It belongs into the reward.

    Args:
        logps: (B, T) log-probabilities under the policy that learns, in nats.
        reference_logps: (B, T) the same under the frozen reference.
        clamp: Largest magnitude of one token, or None for no limit but ±20.

    Returns:
        (B, T) estimates in nats, with gradient.

    Raises:
        ValueError: The shapes differ or are not (B, T), or ``clamp`` is not positive.

    Example:
        >>> k1_kl(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.0]])).tolist()
        [[0.5, -1.0]]
    """
    return _clamp(_log_ratio(logps, reference_logps), clamp)


def k2_kl(logps: Tensor, reference_logps: Tensor, *, clamp: float | None = 10.0) -> Tensor:
    """Estimate by half the square of the log-ratio: (logps - reference_logps)² / 2.

    Never negative and biased in value, little while the two are close. As a loss term it is right: over samples of the
    policy the mean of its gradient is the gradient of the KL divergence.

    Args:
        logps: (B, T) log-probabilities under the policy that learns, in nats.
        reference_logps: (B, T) the same under the frozen reference.
        clamp: Largest value of one token, or None for no limit but 200.

    Returns:
        (B, T) estimates in nats, with gradient.

    Raises:
        ValueError: The shapes differ or are not (B, T), or ``clamp`` is not positive.

    Example:
        >>> k2_kl(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.0]])).tolist()
        [[0.125, 0.5]]
    """
    return _clamp(0.5 * _log_ratio(logps, reference_logps).square(), clamp)


def k3_kl(logps: Tensor, reference_logps: Tensor, *, clamp: float | None = 10.0) -> Tensor:
    """Estimate by exp(d) - d - 1 with d = reference_logps - logps, as published GRPO does (arXiv 2402.03300, Eq. 4).

    Never negative, unbiased in value and of low variance. As a loss term its gradient is, in the mean over samples of
    the policy, that of the opposite divergence KL(reference || policy).

    Args:
        logps: (B, T) log-probabilities under the policy that learns, in nats.
        reference_logps: (B, T) the same under the frozen reference.
        clamp: Largest value of one token, or None for no limit but that on d.

    Returns:
        (B, T) estimates in nats, with gradient.

    Raises:
        ValueError: The shapes differ or are not (B, T), or ``clamp`` is not positive.

    Example:
        >>> k3_kl(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.0, -2.0]])).tolist()
        [[0.0, 0.0]]
    """
    log_ratio = -_log_ratio(logps, reference_logps)
    return _clamp(torch.expm1(log_ratio) - log_ratio, clamp)


def _log_ratio(logps: Tensor, reference_logps: Tensor) -> Tensor:
    shapes = {"logps": tuple(logps.shape), "reference_logps": tuple(reference_logps.shape)}
    if logps.ndim != 2 or reference_logps.shape != logps.shape:
        raise ValueError(f"{', '.join(shapes)}: must have one shape (B, T), got {shapes}")
    return (logps - reference_logps).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)


def _clamp(kl: Tensor, clamp: float | None) -> Tensor:
    if clamp is None:
        return kl
    if clamp <= 0:
        raise ValueError(f"clamp: must be positive or None, got {clamp}")
    return kl.clamp(-clamp, clamp)
