"""The policy loss, the KL estimator and the weights that aggregate tokens.

Weights come from outside, so that a loss is a plain weighted sum: split a batch in any way, add the parts, and the
gradients are those of the whole.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MAX_LOG_RATIO = 20.0


def clipped_policy_loss(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    weights: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Take a clipped step towards what was better than its group (Eq. 3).

    loss = -sum_bt w_bt min(rho_bt A_b, clip(rho_bt, 1 - clip_low, 1 + clip_high) A_b), rho = exp(logps - old_logps).
    The log-ratio is held within ±20, so that rho stays finite. What stands where the weight is 0 has no influence.

    Args:
        logps: (B, T) log-probabilities of the completions' tokens under the policy that learns, in nats.
        old_logps: (B, T) the same under the policy that sampled them.
        advantages: (B,) one per completion.
        weights: (B, T) aggregation weights, not negative, 0 at padding.
        clip_low: How far below 1 the ratio may pay, in [0, 1].
        clip_high: How far above 1 the ratio may pay, not negative.

    Returns:
        The loss, a scalar, and its statistics, detached scalars that are weighted sums as well: ``clip_fraction_low``
        and ``clip_fraction_high``, the weight of the tokens whose gradient the clip removed, and ``ratio_mean``.

    Raises:
        ValueError: Shapes do not fit, or a clip is out of range.
    """
    _check_same_shape(logps=logps, old_logps=old_logps, weights=weights)
    _check_clips(clip_low, clip_high)
    if advantages.shape != logps.shape[:1]:
        raise ValueError(
            f"advantages: must have shape (B,) = {tuple(logps.shape[:1])} beside logps of shape "
            f"{tuple(logps.shape)}, got {tuple(advantages.shape)}"
        )
    log_ratio = torch.where(weights > 0, logps - old_logps, 0.0)
    ratio = log_ratio.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()  # (B, T)
    gain = advantages[:, None]  # (B, 1)
    surrogate = torch.minimum(ratio * gain, ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * gain)
    stats = {
        "clip_fraction_low": (ratio < 1.0 - clip_low) & (gain < 0),
        "clip_fraction_high": (ratio > 1.0 + clip_high) & (gain > 0),
        "ratio_mean": ratio,
    }
    return -(weights * surrogate).sum(), {name: (weights * value).sum().detach() for name, value in stats.items()}


def k3_kl(logps: Tensor, reference_logps: Tensor, *, clamp: float | None = 10.0) -> Tensor:
    """Estimate KL(policy || reference) token by token: exp(d) - d - 1, d = reference_logps - logps.

    The k3 estimator of Schulman (2020), never negative and unbiased for samples of the policy. As in the released code,
    d is held within ±20 and then the result within ±clamp; a token beyond either has no gradient.

    Args:
        logps: (B, T) log-probabilities under the policy that learns, in nats.
        reference_logps: (B, T) the same under the frozen reference.
        clamp: Largest value of one token, or None for no limit but that on d.

    Returns:
        (B, T) estimates in nats.

    Raises:
        ValueError: The shapes differ or are not (B, T), or ``clamp`` is not positive.
    """
    _check_same_shape(logps=logps, reference_logps=reference_logps)
    if clamp is not None and clamp <= 0:
        raise ValueError(f"clamp: must be positive or None, got {clamp}")
    log_ratio = (reference_logps - logps).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    kl = torch.expm1(log_ratio) - log_ratio
    return kl if clamp is None else kl.clamp(-clamp, clamp)


def sequence_mean_weights(mask: Tensor) -> Tensor:
    """Weights of published GRPO: the mean over each completion's tokens, then over the completions.

    Args:
        mask: (B, T) true at tokens that count.

    Returns:
        (B, T) mask / length / B, float32; a row without a token is all 0 and still counts in B.

    Raises:
        ValueError: ``mask`` is not (B, T).

    Example:
        >>> sequence_mean_weights(torch.tensor([[1, 1], [1, 0]])).tolist()
        [[0.25, 0.25], [0.5, 0.0]]
    """
    _check_same_shape(mask=mask)
    mask = mask.float()
    return mask / mask.sum(1, keepdim=True).clamp(min=1.0) / max(len(mask), 1)


def token_mean_weights(mask: Tensor) -> Tensor:
    """Weights of a mean over all tokens of the batch, long completions counting for more.

    Args:
        mask: (B, T) true at tokens that count.

    Returns:
        (B, T) mask / sum of mask, float32; all 0 without a token.

    Raises:
        ValueError: ``mask`` is not (B, T).

    Example:
        >>> token_mean_weights(torch.tensor([[1, 1, 1], [1, 0, 0]])).tolist()
        [[0.25, 0.25, 0.25], [0.25, 0.0, 0.0]]
    """
    _check_same_shape(mask=mask)
    mask = mask.float()
    return mask / mask.sum().clamp(min=1.0)


def _check_same_shape(**tensors: Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if any(len(shape) != 2 for shape in shapes.values()) or len(set(shapes.values())) != 1:
        raise ValueError(f"{', '.join(shapes)}: must have one shape (B, T), got {shapes}")


def _check_clips(clip_low: float, clip_high: float) -> None:
    if not 0.0 <= clip_low <= 1.0:
        raise ValueError(f"clip_low: must lie in [0, 1], got {clip_low}")
    if clip_high < 0.0:
        raise ValueError(f"clip_high: must not be negative, got {clip_high}")
