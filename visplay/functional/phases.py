"""Which items of a collection come next."""

from __future__ import annotations

import numpy as np


def permuted_indices(start: int, count: int, size: int, seed: int) -> list[int]:
    """Draw items from a collection in a seeded order that goes on where it stopped.

    Position p is element p % size of the permutation of pass p // size, so every item comes once before any repeats,
    and the result depends on the position alone.

    Args:
        start: First position, from 0.
        count: How many positions.
        size: Items in the collection.
        seed: Not negative; each pass permutes with a generator of (seed, pass).

    Returns:
        ``count`` indices into the collection.

    Raises:
        ValueError: A negative argument, or an empty collection.

    Example:
        >>> sorted(permuted_indices(0, 3, size=5, seed=1) + permuted_indices(3, 2, size=5, seed=1))
        [0, 1, 2, 3, 4]
    """
    for name, value, least in (("start", start, 0), ("count", count, 0), ("size", size, 1), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name}: must be at least {least}, got {value}")
    passes = range(start // size, -(-(start + count) // size))
    order = [np.random.default_rng([seed, number]).permutation(size) for number in passes]
    positions = np.arange(start, start + count)
    return [int(order[position // size - passes.start][position % size]) for position in positions]
