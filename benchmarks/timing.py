"""Seconds of parts that take turns, so that what else the machine does falls on all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple, TypeVar

import torch

K = TypeVar("K")
ROUNDS = 5


class Spread(NamedTuple):
    """Median, minimum and maximum over rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Describe at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def rate(self, work: float) -> Spread:
        """Work over these seconds."""
        return Spread(work / self.median, work / self.high, work / self.low)

    def scaled(self, factor: float) -> Spread:
        """As many times as much."""
        return Spread(*(factor * value for value in self))


def alternate(parts: dict[K, Callable[[], object]], rounds: int = ROUNDS) -> dict[K, Spread]:
    """Seconds of each part, the parts taking turns; a round that does not count warms up.

    Args:
        parts: What is timed.
        rounds: Rounds that count, at least 1; figures that are kept come from ``ROUNDS`` or more.

    Raises:
        ValueError: ``rounds`` is below 1.
    """
    if rounds < 1:
        raise ValueError(f"rounds: {rounds} must be at least 1")
    seconds: dict[K, list[float]] = {name: [] for name in parts}
    for counts in range(rounds + 1):
        for name, part in parts.items():
            elapsed = time_call(part)
            if counts:
                seconds[name].append(elapsed)
    return {name: Spread.of(values) for name, values in seconds.items()}


def synchronize() -> None:
    """Wait until an accelerator has done what it was told."""
    if _has_accelerator():
        torch.cuda.synchronize()


@cache
def _has_accelerator() -> bool:
    return torch.cuda.is_available()  # asking takes longer than many of the calls that are timed


def time_call(part: Callable[[], object]) -> float:
    """Seconds of one call, what it gave an accelerator to do included."""
    synchronize()
    start = time.perf_counter()
    part()
    synchronize()
    return time.perf_counter() - start
