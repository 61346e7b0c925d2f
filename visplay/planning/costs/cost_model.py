"""The cost model: work over rates.

A stage's work is counted by formula (``stage_work``): operations, bytes that pass between memory and processor, and
layers that are called. Its seconds are the sum of each over a rate, as if nothing overlapped, so that the model is
linear in the inverse rates and three of them are fitted to a few measured steps (``python -m benchmarks.costs``).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """What a device does.

    Args:
        operations: Floating-point operations of products.
        moved_bytes: Bytes between memory and processor where little is computed on them: weights and keys and values of
            each decoded token, states of the optimizer, weights that are loaded.
        layers: Layers that are called, each of which takes time however little it has to do.
    """

    operations: float = 0.0
    moved_bytes: float = 0.0
    layers: float = 0.0

    def __add__(self, other: Work) -> Work:
        """The sum, part by part."""
        return Work(
            self.operations + other.operations, self.moved_bytes + other.moved_bytes, self.layers + other.layers
        )

    def times(self, factor: float) -> Work:
        """As much work again and again.

        Example:
            >>> Work(2.0, 4.0, 1.0).times(0.5)
            Work(operations=1.0, moved_bytes=2.0, layers=0.5)
        """
        return Work(self.operations * factor, self.moved_bytes * factor, self.layers * factor)


@dataclass(frozen=True)
class Rates:
    """How fast a device works; infinite where that kind of work takes no time of its own.

    Args:
        operations: Floating-point operations a second.
        moved_bytes: Bytes a second.
        layers: Layers called a second.
    """

    operations: float
    moved_bytes: float
    layers: float

    def seconds(self, work: Work) -> float:
        """Seconds of some work.

        Example:
            >>> Rates(operations=1e12, moved_bytes=1e9, layers=1e4).seconds(Work(2e12, 5e8, 1e3))
            2.6
        """
        return work.operations / self.operations + work.moved_bytes / self.moved_bytes + work.layers / self.layers
