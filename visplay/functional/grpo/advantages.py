"""From rewards to advantages, group by group."""

from __future__ import annotations

import torch
from torch import Tensor


def group_advantages(rewards: Tensor, eps: float = 1e-6) -> Tensor:
    """Standardise rewards within each group: (r - mean) / (std + eps), unbiased std (VisPlay, Eq. 2).

    Args:
        rewards: (N, G) rewards, G completions per prompt.
        eps: Keeps the quotient finite.

    Returns:
        (N, G) advantages, at least float32; exactly 0 in a group whose rewards are all equal, and where G is 1.

    Raises:
        ValueError: ``rewards`` is not (N, G), or has a value that is not finite.

    Example:
        >>> group_advantages(torch.tensor([[0.0, 2.0], [1.0, 1.0]]), eps=0.0).tolist()
        [[-0.7071067690849304, 0.7071067690849304], [0.0, 0.0]]
    """
    centred = centred_advantages(rewards)
    if rewards.shape[1] == 1:
        return centred
    standardised = centred / (rewards.to(centred.dtype).std(1, keepdim=True) + eps)
    return torch.where(zero_variance_groups(rewards)[:, None], 0.0, standardised)  # where eps is 0, this was 0 / 0


def centred_advantages(rewards: Tensor) -> Tensor:
    """Centre rewards within each group, r - mean: Dr.GRPO (arXiv 2503.20783).

    Without the division by the deviation, easy and hard prompts do not count for more than those between.

    Args:
        rewards: (N, G) rewards, G completions per prompt.

    Returns:
        (N, G) advantages, at least float32; exactly 0 in a group whose rewards are all equal, and where G is 1.

    Raises:
        ValueError: ``rewards`` is not (N, G), or has a value that is not finite.

    Example:
        >>> centred_advantages(torch.tensor([[0.0, 2.0], [1.0, 1.0]])).tolist()
        [[-1.0, 1.0], [0.0, 0.0]]
    """
    flat = zero_variance_groups(rewards)[:, None]
    rewards = rewards.to(torch.promote_types(rewards.dtype, torch.float32))
    # A mean of equal values may round, hence the explicit 0.
    return torch.where(flat, 0.0, rewards - rewards.mean(1, keepdim=True))


def penalized_advantages(rewards: Tensor) -> Tensor:
    """Group advantages (Eq. 2), but the rewards themselves in a group whose rewards are all below 0.

    Equal rewards have no advantage over each other; a group that is penalized as a whole is pushed down as a whole, as
    ``WeakConsensus`` wants it. It takes ``kl_in: loss``: KL charged to the rewards would penalize groups in which no
    answer is right.

    Args:
        rewards: (N, G) rewards, G completions per prompt.

    Returns:
        (N, G) advantages, at least float32.

    Raises:
        ValueError: ``rewards`` is not (N, G), or has a value that is not finite.

    Example:
        >>> penalized_advantages(torch.tensor([[-1.0, -1.0], [0.0, 0.0]])).tolist()
        [[-1.0, -1.0], [0.0, 0.0]]
    """
    advantages = group_advantages(rewards)
    return torch.where((rewards < 0).all(1, keepdim=True), rewards.to(advantages), advantages)


def leave_one_out_advantages(rewards: Tensor) -> Tensor:
    """Compare each reward with the mean of the others in its group: RLOO (arXiv 2402.14740).

    A_i = r_i - sum_{j != i} r_j / (G - 1) = G / (G - 1) (r_i - mean); the baseline does not depend on its own sample.

    Args:
        rewards: (N, G) rewards, G completions per prompt.

    Returns:
        (N, G) advantages, at least float32; exactly 0 in a group whose rewards are all equal, and where G is 1.

    Raises:
        ValueError: ``rewards`` is not (N, G), or has a value that is not finite.

    Example:
        >>> leave_one_out_advantages(torch.tensor([[0.0, 2.0], [1.0, 1.0]])).tolist()
        [[-2.0, 2.0], [0.0, 0.0]]
    """
    centred = centred_advantages(rewards)
    size = rewards.shape[1]
    return centred * (size / max(size - 1, 1))


def zero_variance_groups(rewards: Tensor) -> Tensor:
    """Find the groups that teach nothing: all their rewards are equal.

    Args:
        rewards: (N, G) rewards.

    Returns:
        (N,) bool.

    Raises:
        ValueError: ``rewards`` is not (N, G), or has a value that is not finite.

    Example:
        >>> zero_variance_groups(torch.tensor([[0.0, 2.0], [1.0, 1.0]])).tolist()
        [False, True]
    """
    _check(rewards)
    return (rewards == rewards[:, :1]).all(1)


def _check(rewards: Tensor) -> None:
    if rewards.ndim != 2 or rewards.shape[1] == 0:
        raise ValueError(f"rewards: must have shape (N, G) with G at least 1, got {tuple(rewards.shape)}")
    if not bool(torch.isfinite(rewards).all()):
        rows = torch.nonzero(~torch.isfinite(rewards).all(1)).flatten().tolist()
        raise ValueError(f"rewards: must be finite, got {rewards[rows].tolist()} in groups {rows}")
