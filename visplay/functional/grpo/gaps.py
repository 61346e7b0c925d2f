"""The gap between the log-probabilities that an engine reported and those of the policy that is trained.

The gap of a token is the policy's log-probability less the engine's. Both speak of the same weights, so a gap is
rounding, unless one of the two computes something else.
"""

from __future__ import annotations

from torch import Tensor


def logp_gaps(old_logps: Tensor, sampled_logps: Tensor, mask: Tensor) -> Tensor:
    """Take the signed gaps of the tokens that count: old_logps - sampled_logps.

    Args:
        old_logps: Any shape, log-probabilities under the policy before its update, in nats.
        sampled_logps: The same shape, what the engine reported for the same tokens, in nats.
        mask: The same shape, true at tokens that count; what stands elsewhere has no influence.

    Returns:
        (number of tokens that count,) gaps in nats, detached.

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> import torch
        >>> logp_gaps(torch.tensor([[-1.0, -9.0]]), torch.tensor([[-1.5, -2.0]]), torch.tensor([[True, False]]))
        tensor([0.5000])
    """
    tensors = {"old_logps": old_logps, "sampled_logps": sampled_logps, "mask": mask}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(f"{', '.join(shapes)}: must have one shape, got {shapes}")
    counted = mask.bool()
    return (old_logps.detach()[counted] - sampled_logps.detach()[counted]).float()


def effective_sample_size(gaps: Tensor) -> float:
    """Fraction of the tokens that are left, in effect, once each is weighed by its ratio: (sum w)² / (n sum w²).

    w = exp(gap), the ratio of the policy to the engine (Kong, 1992); 1 where all ratios are equal, and little more than
    1/n where one token has all the weight.

    Args:
        gaps: (n,) signed gaps in nats, as from ``logp_gaps``.

    Returns:
        In (0, 1]; 1 without a token, NaN where a gap is not finite.

    Raises:
        ValueError: ``gaps`` is not (n,).

    Example:
        >>> import torch
        >>> round(effective_sample_size(torch.tensor([1.0, 3.0]).log()), 3)  # 4² / (2 * 10)
        0.8
    """
    _check(gaps)
    if not len(gaps):
        return 1.0
    if not bool(gaps.isfinite().all()):
        return float("nan")
    weights = (gaps - gaps.max()).exp()  # a common factor cancels, so the largest weight may be 1
    return min(1.0, float(weights.mean() ** 2 / weights.square().mean()))


def gap_statistics(gaps: Tensor, limit: float) -> dict[str, float]:
    """Describe the gaps of all tokens of an update.

    Args:
        gaps: (n,) signed gaps in nats, as from ``logp_gaps``.
        limit: Magnitude in nats above which a gap is counted, positive.

    Returns:
        ``logp_gap_mean`` and ``logp_gap_max``, mean and maximum of the magnitudes, in nats;
        ``logp_gap_beyond_fraction``, fraction of the tokens above ``limit``; ``effective_sample_size``. A gap that is
        not finite makes mean, maximum and effective sample size infinite or NaN, and counts as beyond. Without a token
        0, 0, 0 and 1.

    Raises:
        ValueError: ``gaps`` is not (n,), or ``limit`` is not positive.

    Example:
        >>> import torch
        >>> gap_statistics(torch.tensor([0.25, -0.75]), limit=0.5)["logp_gap_beyond_fraction"]
        0.5
    """
    _check(gaps)
    if not limit > 0:
        raise ValueError(f"limit: must be positive, got {limit}")
    sizes = gaps.abs() if len(gaps) else gaps.new_zeros(1)
    return {
        "logp_gap_mean": float(sizes.mean()),
        "logp_gap_max": float(sizes.max()),
        "logp_gap_beyond_fraction": float((~(sizes <= limit)).float().mean()),  # NaN is not within any limit
        "effective_sample_size": effective_sample_size(gaps),
    }


def _check(gaps: Tensor) -> None:
    if gaps.ndim != 1:
        raise ValueError(f"gaps: must have shape (n,), got {tuple(gaps.shape)}")
