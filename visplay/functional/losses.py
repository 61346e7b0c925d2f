"""Three policy losses of one signature: ratios clipped by token, ratios clipped by sequence, weights clipped by token.

Weights come from outside (``visplay.functional.weights``), so that a loss is a plain weighted sum: split a batch in any
way between rows, add the parts, and the gradients are those of the whole. The statistics are weighted sums that add up
likewise, but for names that end in ``_max``: those are maxima, over tokens here and over parts in turn.
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
    dual_clip: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Take a clipped step towards what was better than its group (VisPlay, Eq. 3).

    loss = -sum_bt w_bt min(rho_bt A_b, clip(rho_bt, 1 - clip_low, 1 + clip_high) A_b), rho = exp(logps - old_logps);
    ``clip_high`` above ``clip_low`` is the clip-higher of DAPO (arXiv 2503.14476). With ``dual_clip`` c (Ye et al.,
    arXiv 1912.09729; the released code of VisPlay takes 3) the term of a negative A_b is max(that minimum, c A_b).
    The log-ratio is held within ±20, so that rho stays finite. What stands where the weight is 0 has no influence.

    Args:
        logps: (B, T) log-probabilities of the completions' tokens under the policy that learns, in nats.
        old_logps: (B, T) the same under the policy that sampled them.
        advantages: (B,) one per completion.
        weights: (B, T) aggregation weights, not negative, 0 at padding.
        clip_low: How far below 1 the ratio may pay, in [0, 1].
        clip_high: How far above 1 the ratio may pay, not negative.
        dual_clip: The ratio up to which a negative advantage counts, above 1, or None for no limit.

    Returns:
        The loss, a scalar, and its statistics, detached scalars. Sums: ``ratio_mean``; ``clip_fraction_low``,
        ``clip_fraction_high`` and ``clip_fraction_dual``, the weight of the tokens whose gradient that clip removed.
        A maximum: ``ratio_max``, the largest ratio of a token that counts, 0 without one.

    Raises:
        ValueError: Shapes do not fit, or a clip is out of range.

    Example:
        >>> ratios, advantages = torch.tensor([[0.5, 1.5], [0.5, 1.5]]), torch.tensor([1.0, -1.0])
        >>> loss, stats = clipped_policy_loss(ratios.log(), torch.zeros(2, 2), advantages, torch.full((2, 2), 0.25))
        >>> round(loss.item(), 3)  # -(0.5 + 1.2 - 0.8 - 1.5) / 4
        0.15
    """
    _check(logps, old_logps, advantages, weights)
    _check_clips(clip_low, clip_high, dual_clip)
    ratio = _ratio(_log_ratio(logps, old_logps, weights))  # (B, T)
    return _clipped_loss(ratio, advantages, weights, clip_low, clip_high, dual_clip)


def sequence_policy_loss(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    weights: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Clip whole completions by the geometric mean of their tokens' ratios: GSPO (arXiv 2507.18071, Eq. 5 and 7).

    loss = -sum_b w_b min(s_b A_b, clip(s_b, 1 - clip_low, 1 + clip_high) A_b), where s_b = exp(the mean of logps -
    old_logps over the tokens of weight above 0) and w_b is the sum of their weights. The mean is held within ±20. What
    stands where the weight is 0 has no influence. As s_b stays close to 1, the paper's clips are small, 3e-4 and 4e-4.

    Args:
        logps: (B, T) log-probabilities of the completions' tokens under the policy that learns, in nats.
        old_logps: (B, T) the same under the policy that sampled them.
        advantages: (B,) one per completion.
        weights: (B, T) aggregation weights, not negative, 0 at padding; a completion's tokens all in one row.
        clip_low: How far below 1 the ratio may pay, in [0, 1].
        clip_high: How far above 1 the ratio may pay, not negative.
        dual_clip: The ratio up to which a negative advantage counts, above 1, or None for no limit.

    Returns:
        The loss and its statistics, as in ``clipped_policy_loss``; each token has the ratio of its completion.

    Raises:
        ValueError: Shapes do not fit, or a clip is out of range.

    Example:
        >>> ratios, advantages = torch.tensor([[1.0, 4.0], [1.0, 4.0]]), torch.tensor([1.0, -1.0])
        >>> loss, stats = sequence_policy_loss(ratios.log(), torch.zeros(2, 2), advantages, torch.full((2, 2), 0.25))
        >>> round(loss.item(), 3)  # both completions have the ratio 2: -(1.2 - 2) / 2
        0.4
    """
    _check(logps, old_logps, advantages, weights)
    _check_clips(clip_low, clip_high, dual_clip)
    lengths = (weights > 0).sum(1, keepdim=True).clamp(min=1)  # (B, 1)
    ratio = _ratio(_log_ratio(logps, old_logps, weights).sum(1, keepdim=True) / lengths)  # (B, 1)
    return _clipped_loss(ratio.expand_as(weights), advantages, weights, clip_low, clip_high, dual_clip)


def cispo_loss(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    weights: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Clip the importance weights and drop no token's gradient: CISPO (MiniMax-M1, arXiv 2506.13585, Eq. 4 and 5).

    loss = -sum_bt w_bt stopgrad(clip(rho_bt, 1 - clip_low, 1 + clip_high)) A_b logps_bt, rho = exp(logps - old_logps).
    Its value means nothing; its gradient is REINFORCE's with bounded importance weights. ``clip_low`` 1, the paper's
    choice, leaves them without a lower bound. What stands where the weight is 0 has no influence.

    Args:
        logps: (B, T) log-probabilities of the completions' tokens under the policy that learns, in nats.
        old_logps: (B, T) the same under the policy that sampled them.
        advantages: (B,) one per completion.
        weights: (B, T) aggregation weights, not negative, 0 at padding.
        clip_low: How far below 1 the importance weight may lie, in [0, 1].
        clip_high: How far above 1 the importance weight may lie, not negative.
        dual_clip: None; here only because all policy losses share one signature.

    Returns:
        The loss and its statistics, as in ``clipped_policy_loss``, but ``clip_fraction_low`` and ``clip_fraction_high``
        are the weight of the tokens whose importance weight was clipped, of either sign of the advantage.

    Raises:
        ValueError: Shapes do not fit, a clip is out of range, or ``dual_clip`` is not None.

    Example:
        >>> logps = torch.tensor([[-1.0, -2.0], [-1.0, -2.0]], requires_grad=True)
        >>> loss, stats = cispo_loss(logps, logps.detach() - 1.0, torch.tensor([1.0, -1.0]), torch.ones(2, 2))
        >>> torch.autograd.grad(loss, logps)[0].round(decimals=3).tolist()
        [[-1.2000000476837158, -1.2000000476837158], [1.2000000476837158, 1.2000000476837158]]
    """
    _check(logps, old_logps, advantages, weights)
    if dual_clip is not None:
        raise ValueError(
            f"dual_clip: must be None, got {dual_clip}: cispo_loss bounds the weight of every token by 1 + clip_high"
        )
    _check_clips(clip_low, clip_high, dual_clip)
    ratio = _ratio(_log_ratio(logps, old_logps, weights)).detach()  # (B, T)
    gain = ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages[:, None]
    loss = -(weights * gain * torch.where(weights > 0, logps, 0.0)).sum()
    return loss, _statistics(ratio, weights, low=ratio < 1.0 - clip_low, high=ratio > 1.0 + clip_high, dual=None)


def _clipped_loss(
    ratio: Tensor, advantages: Tensor, weights: Tensor, clip_low: float, clip_high: float, dual_clip: float | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The surrogate of PPO for ratios (B, T), of tokens or of their completions."""
    gain = advantages[:, None]  # (B, 1)
    worse = gain < 0
    surrogate = torch.minimum(ratio * gain, ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * gain)
    dual = None
    if dual_clip is not None:
        surrogate = torch.where(worse, torch.maximum(surrogate, dual_clip * gain), surrogate)
        dual = worse & (ratio > dual_clip)
    low, high = worse & (ratio < 1.0 - clip_low), (gain > 0) & (ratio > 1.0 + clip_high)
    return -(weights * surrogate).sum(), _statistics(ratio, weights, low=low, high=high, dual=dual)


@torch.no_grad()
def _statistics(ratio: Tensor, weights: Tensor, *, low: Tensor, high: Tensor, dual: Tensor | None) -> dict[str, Tensor]:
    counted = torch.where(weights > 0, ratio, 0.0).flatten()
    return {
        "ratio_mean": (weights * ratio).sum(),
        "clip_fraction_low": (weights * low).sum(),
        "clip_fraction_high": (weights * high).sum(),
        "clip_fraction_dual": weights.new_zeros(()) if dual is None else (weights * dual).sum(),
        "ratio_max": counted.max() if len(counted) else counted.sum(),
    }


def _log_ratio(logps: Tensor, old_logps: Tensor, weights: Tensor) -> Tensor:
    return torch.where(weights > 0, logps - old_logps, 0.0)  # (B, T), without what stands at padding


def _ratio(log_ratio: Tensor) -> Tensor:
    return log_ratio.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()


def _check(logps: Tensor, old_logps: Tensor, advantages: Tensor, weights: Tensor) -> None:
    tensors = {"logps": logps, "old_logps": old_logps, "weights": weights}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if logps.ndim != 2 or len(set(shapes.values())) != 1:
        raise ValueError(f"{', '.join(shapes)}: must have one shape (B, T), got {shapes}")
    if advantages.shape != logps.shape[:1]:
        raise ValueError(
            f"advantages: must have shape (B,) = {tuple(logps.shape[:1])} beside logps of shape "
            f"{tuple(logps.shape)}, got {tuple(advantages.shape)}"
        )


def _check_clips(clip_low: float, clip_high: float, dual_clip: float | None) -> None:
    if not 0.0 <= clip_low <= 1.0:
        raise ValueError(f"clip_low: must lie in [0, 1], got {clip_low}")
    if clip_high < 0.0:
        raise ValueError(f"clip_high: must not be negative, got {clip_high}")
    if dual_clip is not None and dual_clip <= 1.0:
        raise ValueError(f"dual_clip: must be above 1 or None, got {dual_clip}")
