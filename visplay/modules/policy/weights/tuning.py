"""What of a model learns: its weights, or adapters on them, and in which of its parts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import get_args

from visplay.modules.policy.weights.loading import Part


@dataclass(frozen=True)
class LoRA:
    """LoRA adapters (arXiv 2106.09685): a weight W learns as W + alpha / rank · B A, and W itself is frozen.

    Args:
        rank: Rank of the products.
        alpha: Their scale, times the rank.
        targets: Last names of the linear layers that are adapted, such as ``q_proj``; null adapts all in the parts that
            learn, but not the head.
        dropout: Fraction of an adapter's inputs that training drops. The engine samples without it, so that the gap
            between sampled and trained log-probabilities grows; and what is dropped after a resume is not what would
            have been.
        seed: Root of the adapters' first values; they change nothing until the first update.

    Raises:
        ValueError: A value that no adapter can have.
    """

    rank: int = 32
    alpha: float = 64.0
    targets: Collection[str] | None = None
    dropout: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject what no adapter can have."""
        if self.rank < 1:
            raise ValueError(f"rank: {self.rank} must be at least 1")
        if not self.alpha > 0:
            raise ValueError(f"alpha: {self.alpha} must be above 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: {self.dropout} must be at least 0 and below 1")
        if self.targets is not None and not self.targets:
            raise ValueError("targets: give the last name of a linear layer at least, or null for all")


@dataclass(frozen=True)
class Tuning:
    """Which parts of a model learn, and how.

    Args:
        freeze: Parts that do not learn.
        lora: Adapters that learn instead of the weights; null trains the weights themselves.

    Raises:
        ValueError: An unknown part, or nothing left to learn.
    """

    freeze: Collection[Part] = ()
    lora: LoRA | None = None

    def __post_init__(self) -> None:
        """Reject unknown parts, and a model that learns nothing."""
        parts = set(get_args(Part))
        if set(self.freeze) - parts or set(self.freeze) == parts:
            raise ValueError(f"freeze: some of {sorted(parts)}, not all, got {sorted(self.freeze)}")
