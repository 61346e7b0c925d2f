"""The loss of GRPO: aggregation weights, policy losses, KL estimators, corrections for the engine's log-probabilities.

A loss is a plain sum under weights that come from outside: split a batch in any way between micro-batches, add the
parts, and the gradients are those of the whole. Statistics are weighted sums that add up likewise, but for names that
end in ``_max``. Axes: B completions, T tokens. Every log-ratio is clamped to ±20, so that its exponential is finite.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_MAX_LOG_RATIO = 20.0

# Aggregation: mask (B, T) of the tokens that count -> weights (B, T)


def sequence_mean_weights(mask: Tensor) -> Tensor:
    """Weights of published GRPO (arXiv 2402.03300): the mean over a completion's tokens, then over the completions.

    Args:
        mask: (B, T) true at tokens that count.

    Returns:
        (B, T) mask / length / B, float32; a completion without a token is all 0 and still counts in B.

    Raises:
        ValueError: ``mask`` is not (B, T).

    Example:
        >>> sequence_mean_weights(torch.tensor([[1, 1], [1, 0]])).tolist()
        [[0.25, 0.25], [0.5, 0.0]]
    """
    mask = _float_mask(mask)
    return mask / mask.sum(1, keepdim=True).clamp(min=1.0) / max(len(mask), 1)


def token_mean_weights(mask: Tensor) -> Tensor:
    """Weights of DAPO (arXiv 2503.14476): a mean over all tokens of the batch, long completions counting for more.

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
    mask = _float_mask(mask)
    return mask / mask.sum().clamp(min=1.0)


@dataclass(frozen=True)
class FixedLengthWeights:
    """Weights of Dr.GRPO (arXiv 2503.20783): every token counts the same, whatever its completion's length.

    The sum over a completion is divided by a constant, so that a long wrong answer is not punished less per token.

    Args:
        tokens: The constant, usually the most tokens that a completion may have; at least 1.

    Raises:
        ValueError: ``tokens`` is below 1, or a mask is not (B, T).

    Example:
        >>> FixedLengthWeights(tokens=4)(torch.tensor([[1, 1], [1, 0]])).tolist()
        [[0.125, 0.125], [0.125, 0.0]]
    """

    tokens: int

    def __post_init__(self) -> None:
        """Reject a constant that cannot divide."""
        if self.tokens < 1:
            raise ValueError(f"tokens: must be at least 1, got {self.tokens}")

    def __call__(self, mask: Tensor) -> Tensor:
        """Weigh each token of a mask (B, T) by 1 / (B * tokens); returns (B, T), float32."""
        mask = _float_mask(mask)
        return mask / (max(len(mask), 1) * self.tokens)


def _float_mask(mask: Tensor) -> Tensor:
    if mask.ndim != 2:
        raise ValueError(f"mask: must have shape (B, T), got {tuple(mask.shape)}")
    return mask.float()


# Policy losses of one signature


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
    """Clip the ratio of each token: PPO's surrogate as in GRPO (VisPlay, Eq. 3).

    loss = -sum_bt w_bt min(rho_bt A_b, clip(rho_bt, 1 - clip_low, 1 + clip_high) A_b), rho = exp(logps - old_logps);
    ``clip_high`` above ``clip_low`` is the clip-higher of DAPO (arXiv 2503.14476). With ``dual_clip`` c (Ye et al.,
    arXiv 1912.09729; the released code of VisPlay takes 3) the term of a negative A_b is max(that minimum, c A_b).
    What is stored where the weight is 0 has no influence.

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
    log_ratio = _checked_log_ratio(logps, old_logps, advantages, weights, clip_low, clip_high, dual_clip)
    return _clipped(_exp(log_ratio), advantages, weights, clip_low, clip_high, dual_clip)


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
    old_logps over the tokens of weight above 0) and w_b is the sum of their weights. As s_b stays close to 1, the
    paper's clips are small, 3e-4 and 4e-4. A completion's tokens must all be in one micro-batch.

    Args and returns are those of ``clipped_policy_loss``; each token has the ratio of its completion.

    Raises:
        ValueError: Shapes do not fit, or a clip is out of range.

    Example:
        >>> ratios, advantages = torch.tensor([[1.0, 4.0], [1.0, 4.0]]), torch.tensor([1.0, -1.0])
        >>> loss, stats = sequence_policy_loss(ratios.log(), torch.zeros(2, 2), advantages, torch.full((2, 2), 0.25))
        >>> round(loss.item(), 3)  # both completions have the ratio 2: -(1.2 - 2) / 2
        0.4
    """
    log_ratio = _checked_log_ratio(logps, old_logps, advantages, weights, clip_low, clip_high, dual_clip)
    lengths = (weights > 0).sum(1, keepdim=True).clamp(min=1)  # (B, 1)
    ratio = _exp(log_ratio.sum(1, keepdim=True) / lengths)  # (B, 1)
    return _clipped(ratio.expand_as(weights), advantages, weights, clip_low, clip_high, dual_clip)


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
    choice, leaves them without a lower bound.

    Args and returns are those of ``clipped_policy_loss``, but ``clip_fraction_low`` and ``clip_fraction_high`` are the
    weight of the tokens whose importance weight was clipped, of either sign of the advantage, and ``dual_clip`` must be
    None: it is here because all policy losses share one signature.

    Raises:
        ValueError: Shapes do not fit, a clip is out of range, or ``dual_clip`` is not None.

    Example:
        >>> logps = torch.tensor([[-1.0, -2.0], [-1.0, -2.0]], requires_grad=True)
        >>> loss, stats = cispo_loss(logps, logps.detach() - 1.0, torch.tensor([1.0, -1.0]), torch.ones(2, 2))
        >>> torch.autograd.grad(loss, logps)[0].round(decimals=3).tolist()
        [[-1.2000000476837158, -1.2000000476837158], [1.2000000476837158, 1.2000000476837158]]
    """
    log_ratio = _checked_log_ratio(logps, old_logps, advantages, weights, clip_low, clip_high, None)
    if dual_clip is not None:
        raise ValueError(
            f"dual_clip: must be None, got {dual_clip}: cispo_loss bounds the weight of every token by 1 + clip_high"
        )
    ratio = _exp(log_ratio).detach()  # (B, T)
    gain = ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages[:, None]
    loss = -(weights * gain * torch.where(weights > 0, logps, 0.0)).sum()
    return loss, _statistics(ratio, weights, low=ratio < 1.0 - clip_low, high=ratio > 1.0 + clip_high, dual=None)


def _clipped(
    ratio: Tensor, advantages: Tensor, weights: Tensor, clip_low: float, clip_high: float, dual_clip: float | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO's surrogate from ratios (B, T), whatever they are the ratios of."""
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


def _exp(log_ratio: Tensor) -> Tensor:
    return log_ratio.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()


def _checked_log_ratio(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    weights: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
) -> Tensor:
    """Log-ratios (B, T), 0 where the weight is, after a check of everything that a policy loss is given."""
    _check_shapes(logps=logps, old_logps=old_logps, weights=weights)
    if advantages.shape != logps.shape[:1]:
        raise ValueError(
            f"advantages: must have shape (B,) = {tuple(logps.shape[:1])} for logps of shape {tuple(logps.shape)}, got "
            f"{tuple(advantages.shape)}"
        )
    if not 0.0 <= clip_low <= 1.0:
        raise ValueError(f"clip_low: must be in [0, 1], got {clip_low}")
    if clip_high < 0.0:
        raise ValueError(f"clip_high: must not be negative, got {clip_high}")
    if dual_clip is not None and dual_clip <= 1.0:
        raise ValueError(f"dual_clip: must be above 1 or None, got {dual_clip}")
    return torch.where(weights > 0, logps - old_logps, 0.0)


def _check_shapes(**tensors: Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) != 1 or {len(shape) for shape in shapes.values()} != {2}:
        raise ValueError(f"{', '.join(shapes)}: must have one shape (B, T), got {shapes}")


# Estimators of KL(policy || reference) from sampled tokens: Schulman, "Approximating KL divergence" (2020),
# http://joschu.net/blog/kl-approx.html. An estimate is clamped to ±10, as the released code of VisPlay does with k3;
# beyond the clamp, for k3 2.6 nats of a token that became less probable, a token has no gradient. Log-ratios are within
# ±20 before that; of others newer EasyR1 and verl do so, the released code does not.


def k1_kl(logps: Tensor, reference_logps: Tensor, *, clamp: float | None = 10.0) -> Tensor:
    """Estimate by the log-ratio itself: logps - reference_logps.

    Unbiased in value, of high variance, negative for some tokens. As a loss term it does nothing: its gradient is that
    of the log-probability, whose mean over samples of the policy is zero. It belongs in the reward.

    Args:
        logps: (B, T) log-probabilities under the policy that learns, in nats.
        reference_logps: (B, T) the same under the reference policy.
        clamp: Largest magnitude of one token, or None for no limit but ±20 on the log-ratio.

    Returns:
        (B, T) estimates in nats, with gradient.

    Raises:
        ValueError: The shapes differ or are not (B, T), or ``clamp`` is not positive.

    Example:
        >>> k1_kl(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.0]])).tolist()
        [[0.5, -1.0]]
    """
    return _clamp(_kl_log_ratio(logps, reference_logps), clamp)


def k2_kl(logps: Tensor, reference_logps: Tensor, *, clamp: float | None = 10.0) -> Tensor:
    """Estimate by half the square of the log-ratio: (logps - reference_logps)² / 2; arguments as for ``k1_kl``.

    Never negative and biased in value, little while the two are close. As a loss term it is right: over samples of the
    policy the mean of its gradient is the gradient of the KL.

    Example:
        >>> k2_kl(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.0]])).tolist()
        [[0.125, 0.5]]
    """
    return _clamp(0.5 * _kl_log_ratio(logps, reference_logps).square(), clamp)


def k3_kl(logps: Tensor, reference_logps: Tensor, *, clamp: float | None = 10.0) -> Tensor:
    """Estimate by exp(d) - d - 1 with d = reference_logps - logps, as published GRPO does (arXiv 2402.03300, Eq. 4).

    Never negative, unbiased in value and of low variance. As a loss term its gradient is, in the mean over samples of
    the policy, that of the reverse: KL(reference || policy). Arguments as for ``k1_kl``.

    Example:
        >>> k3_kl(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.0, -2.0]])).tolist()
        [[0.0, 0.0]]
    """
    log_ratio = -_kl_log_ratio(logps, reference_logps)
    return _clamp(torch.expm1(log_ratio) - log_ratio, clamp)


def _kl_log_ratio(logps: Tensor, reference_logps: Tensor) -> Tensor:
    _check_shapes(logps=logps, reference_logps=reference_logps)
    return (logps - reference_logps).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)


def _clamp(kl: Tensor, clamp: float | None) -> Tensor:
    if clamp is not None and clamp <= 0:
        raise ValueError(f"clamp: must be positive or None, got {clamp}")
    return kl if clamp is None else kl.clamp(-clamp, clamp)


# Corrections for an engine whose probabilities are not quite the policy's: truncated importance weights of the policy
# loss, under three names, since others call both the second and the third "sequence".


def token_truncated_weights(log_ratios: Tensor, mask: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """Weigh each token by its own ratio: min(exp(d_bt), cap), with d the log-ratio.

    Truncated importance sampling: Yao et al., "Your efficient RL framework secretly brings you off-policy RL training"
    (2025). Low variance; biased, as the tokens before the present one are not accounted for.

    Args:
        log_ratios: (B, T) log-probabilities under the policy less those that the engine reported, in nats.
        mask: (B, T) true at tokens that count; what is stored elsewhere has no influence.
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
    weights are near 0 or at ``cap``. TRL calls this "sequence". Arguments as for ``token_truncated_weights``; weights
    and kept tokens are equal over the tokens of a completion.

    Example:
        >>> weights, kept = sequence_sum_weights(torch.tensor([[0.5, 3.0]]).log(), torch.ones(1, 2), cap=2.0)
        >>> weights.tolist(), kept.tolist()
        ([[1.5, 1.5]], [[True, True]])
    """
    return _truncate(_counted(log_ratios, mask).sum(1, keepdim=True).expand_as(mask), mask, cap)


def sequence_geometric_weights(log_ratios: Tensor, mask: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """Weigh all tokens of a completion by the geometric mean of their ratios: min(exp(mean_t d_bt), cap).

    The ratio of GSPO (arXiv 2507.18071, Eq. 7). Low variance whatever the length; biased, as it is no ratio of
    probabilities of anything. ms-swift calls this "sequence". Arguments as for ``token_truncated_weights``; weights and
    kept tokens are equal over the tokens of a completion.

    Example:
        >>> weights, kept = sequence_geometric_weights(torch.tensor([[1.0, 9.0]]).log(), torch.ones(1, 2), cap=2.0)
        >>> weights.tolist(), kept.tolist()
        ([[2.0, 2.0]], [[False, False]])
    """
    mean = _counted(log_ratios, mask).sum(1, keepdim=True) / mask.bool().sum(1, keepdim=True).clamp(min=1)
    return _truncate(mean.expand_as(mask), mask, cap)


def _counted(log_ratios: Tensor, mask: Tensor) -> Tensor:
    _check_shapes(log_ratios=log_ratios, mask=mask)
    return torch.where(mask.bool(), log_ratios.detach(), 0.0)


def _truncate(log_weights: Tensor, mask: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    if not cap >= 1.0:
        raise ValueError(f"cap: must be at least 1, got {cap}")
    weights = _exp(log_weights)
    return weights.clamp(max=cap) * mask.bool(), (weights <= cap) & mask.bool()
