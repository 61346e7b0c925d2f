"""RESTRAIN (arXiv 2510.02172): every answer of a group is a label, weighted by its share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class WeightedLabels:
    """Advantages by all labels at once: A_i = sum_j w_j A_ij, w_j = g(f_j) / sum_k g(f_k), over distinct answers j.

    f_j is the share of the group that gives answer j, g(f) = exp(-(f - centre)² / (2 width²)), and A_ij =
    (1[y_i ≡ j] - f_j) / s_j what GRPO makes of the label j, s_j the unbiased deviation. That is r_i less the mean of r
    over the group, with r_i = w / s of the answer that i gives, 0 where it did not parse. ``grpo.advantage`` is to be
    ``unchanged``; groups without a majority are for ``visplay.functional.WeakConsensus``.

    Args:
        centre: The share that weighs most, in [0, 1].
        width: How slowly other shares weigh less, positive.

    Raises:
        ValueError: ``width`` is not positive.
    """

    centre: float = 1.0
    width: float = 0.5

    def __post_init__(self) -> None:
        """Reject what is no Gaussian."""
        if not self.width > 0:
            raise ValueError(f"width: must be positive, got {self.width}")

    def __call__(self, texts: Sequence[Sequence[str]], shares: Tensor) -> Tensor:
        """Advantages (N, G) for shares (N, G); see ``visplay.functional.GroupReward``."""
        size = shares.shape[1]
        g = torch.where(shares > 0, torch.exp(-((shares - self.centre) ** 2) / (2 * self.width**2)), 0.0)
        total = (g / (size * shares).clamp(min=1)).sum(1, keepdim=True)  # each distinct answer once
        deviations = (shares * (1 - shares) * size / (size - 1)).sqrt()
        r = torch.where((shares > 0) & (shares < 1), g / total / deviations, 0.0)
        return r - r.mean(1, keepdim=True)


def unchanged(rewards: Tensor) -> Tensor:
    """Rewards (N, G) that are advantages already."""
    return rewards
