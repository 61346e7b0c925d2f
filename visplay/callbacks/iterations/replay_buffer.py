"""Replay: a fraction of what the Reasoner learns from is what earlier iterations have kept, with its old labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from visplay.data.earlier_datasets import ChosenRows, DatasetFile, pool
from visplay.functional.replay_priorities import hold_highest, uniform_priority


@dataclass(frozen=True)
class ReplayBuffer:
    """Which examples of earlier iterations are learned from again, and how often.

    It holds references to rows of the data sets on the disk, chosen anew as each phase of the Reasoner begins, and no
    copies. What it chooses from is in the checkpoints of ``SelfPlay``: the data sets that earlier phases learned from,
    those of a phase that was repeated and of one that the advance rule did not let learn left out.

    Args:
        share: Fraction of a phase's generated examples that is replayed, spread evenly over its batches.
        size: Most examples held.
        rule: Which are held if there are more, by its import path: ``uniform_priority``, ``oldest_first`` or
            ``most_confident_first`` of ``visplay.functional``, or a function like them.

    Raises:
        ValueError: ``share`` is no fraction, or nothing can be held.
    """

    share: float = 0.25
    size: int = 2048
    rule: Callable[[np.ndarray, np.ndarray], Any] = uniform_priority

    def __post_init__(self) -> None:
        """Reject what holds nothing."""
        if not 0 <= self.share <= 1:
            raise ValueError(f"share: must lie in [0, 1], got {self.share}")
        if self.size < 1:
            raise ValueError(f"size: must be at least 1, got {self.size}")

    def fill(self, files: Sequence[DatasetFile], seed: int) -> ChosenRows:
        """The examples held after these data sets.

        Args:
            files: From the oldest to the last.
            seed: Of the lots among examples of equal priority, the same in the whole run.

        Raises:
            ValueError: A file is gone, or another one.
        """
        pooled = pool(files)
        iterations = np.array([number for number, _ in pooled.rows], dtype=np.int64)
        confidences = np.array([score for dataset in pooled.datasets for score in dataset.column("score")])
        held = hold_highest(self.rule(iterations, confidences), self.size, seed)
        return ChosenRows(pooled.datasets, [pooled.rows[index] for index in held])
