"""Where the time and the tokens of a step go, and what is being done now."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Adds up seconds per stage; a progress bar reads ``stage`` and ``note``.

    Attributes:
        stage: The innermost stage under way, empty between stages.
        note: How far a long stage has come, for people.
        total: Seconds per stage since the beginning, whatever was drained.
        tokens: Completion tokens that were sampled, or learned from, per stage since the last ``drain_tokens``.

    Example:
        >>> clock = Clock()
        >>> with clock("votes"):
        ...     clock.stage
        'votes'
        >>> sorted(clock.drain())
        ['votes']
    """

    def __init__(self) -> None:
        self.stage = ""
        self.note = ""
        self.total: dict[str, float] = defaultdict(float)
        self.tokens: Counter[str] = Counter()
        self._seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time a stage; an inner stage is counted in both."""
        outer, self.stage = self.stage, stage
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self._seconds[stage] += seconds
            self.total[stage] += seconds
            self.stage = outer

    def drain(self) -> dict[str, float]:
        """Seconds per stage since the last call."""
        seconds, self._seconds = dict(self._seconds), defaultdict(float)
        return seconds

    def drain_tokens(self) -> dict[str, float]:
        """Tokens since the last call, as statistics: ``votes_tokens`` of the stage ``votes``."""
        tokens, self.tokens = self.tokens, Counter()
        return {f"{stage}_tokens": float(count) for stage, count in tokens.items()}


def span(seconds: float) -> str:
    """A time in words, with as many digits as matter.

    Example:
        >>> span(8), span(312), span(9000)
        ('8 s', '5 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
