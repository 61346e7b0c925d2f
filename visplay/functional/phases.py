"""Which items of a collection come next."""

from __future__ import annotations

from collections.abc import Sequence

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
    _check(start=(start, 0), count=(count, 0), size=(size, 1), seed=(seed, 0))
    passes = range(start // size, -(-(start + count) // size))
    order = [np.random.default_rng([seed, number]).permutation(size) for number in passes]
    positions = np.arange(start, start + count)
    return [int(order[position // size - passes.start][position % size]) for position in positions]


def buffered_indices(start: int, count: int, parts: Sequence[int] | np.ndarray, buffer: int, seed: int) -> list[int]:
    """Draw items as ``permuted_indices`` does, but from a few parts of the collection at a time.

    Each pass puts the parts in another order and cuts it into runs of about ``buffer`` items; the items of a run are
    permuted. A run is a shuffle buffer that is filled and emptied as a whole, so that the result depends on the
    position alone and no content of a buffer has to be restored.

    Args:
        start: First position, from 0.
        count: How many positions.
        parts: Items of each part of the collection, in the collection's order.
        buffer: Items of a run, up to one part more or less.
        seed: Not negative; generators are of (seed, pass) and (seed, pass, 1 + run).

    Returns:
        ``count`` indices into the collection.

    Raises:
        ValueError: A negative argument, an empty collection, or a buffer below 1.

    Example:
        >>> drawn = buffered_indices(0, 6, parts=[2, 2, 2], buffer=2, seed=2)
        >>> [sorted(drawn[i : i + 2]) for i in range(0, 6, 2)]
        [[4, 5], [0, 1], [2, 3]]
    """
    sizes = np.asarray(parts, dtype=np.int64)
    size = int(sizes.sum())
    _check(start=(start, 0), count=(count, 0), size=(size, 1), buffer=(buffer, 1), seed=(seed, 0))
    firsts = np.cumsum(sizes) - sizes
    drawn: list[int] = []
    while len(drawn) < count:
        number, offset = divmod(start + len(drawn), size)
        order = np.random.default_rng([seed, number]).permutation(len(sizes))
        ends = np.cumsum(sizes[order])
        begins = ends - sizes[order]
        _, runs = np.unique(begins // buffer, return_index=True)  # a part is in the run in which it begins
        bounds = np.append(begins[runs], size)
        for run in range(int(np.searchsorted(bounds, offset, "right")) - 1, len(runs)):
            begin, end = int(bounds[run]), int(bounds[run + 1])
            rng = np.random.default_rng([seed, number, run + 1])  # with 0 at its end it would be that of the pass
            shuffled = begin + rng.permutation(end - begin)
            chosen = shuffled[offset - begin : offset - begin + count - len(drawn)]
            places = np.searchsorted(ends, chosen, "right")
            drawn += (firsts[order[places]] + chosen - begins[places]).tolist()
            offset = end
            if len(drawn) == count:
                break
    return drawn


def _check(**values: tuple[int, int]) -> None:
    for name, (value, least) in values.items():
        if value < least:
            raise ValueError(f"{name}: must be at least {least}, got {value}")
