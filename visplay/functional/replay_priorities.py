"""Which examples of earlier iterations a replay buffer of limited size holds."""

from __future__ import annotations

import numpy as np


def uniform_priority(iterations: np.ndarray, confidences: np.ndarray) -> np.ndarray:
    """Prefer none: the buffer is a uniform sample of all examples so far, as reservoir sampling keeps it.

    Args:
        iterations: (n,) which data set each example is of, from 0, the oldest.
        confidences: (n,) of the votes that gave their silver answers, in [0, 1].

    Returns:
        (n,) priorities; the highest are held, and equal ones drawn by lot.
    """
    return np.zeros(len(iterations))


def oldest_first(iterations: np.ndarray, confidences: np.ndarray) -> np.ndarray:
    """Prefer the first iterations, whose confidences still tell right silver answers from wrong ones.

    Args:
        iterations: (n,) which data set each example is of, from 0, the oldest.
        confidences: (n,) of the votes that gave their silver answers, in [0, 1].

    Returns:
        (n,) priorities; the highest are held, and equal ones drawn by lot.
    """
    return -iterations.astype(float)


def most_confident_first(iterations: np.ndarray, confidences: np.ndarray) -> np.ndarray:
    """Prefer examples whose votes agreed most, of any iteration.

    Args:
        iterations: (n,) which data set each example is of, from 0, the oldest.
        confidences: (n,) of the votes that gave their silver answers, in [0, 1].

    Returns:
        (n,) priorities; the highest are held, and equal ones drawn by lot.
    """
    return confidences.astype(float)


def hold_highest(priorities: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Choose the examples of highest priority; among equal ones a lot decides, which an example keeps for ever.

    So a buffer needs no state: what it holds follows from the examples so far, and as these grow in number, one that
    was not held is not held later, as long as the priorities of the others stay as they are.

    Args:
        priorities: (n,) of all examples so far, in the order in which they were generated.
        size: Most examples that are held.
        seed: Of the lots.

    Returns:
        (min(n, size),) their indices, in ascending order.

    Example:
        >>> hold_highest(np.array([0.5, 0.9, 0.1, 0.7]), size=2, seed=0).tolist()
        [1, 3]
    """
    lots = np.random.default_rng(seed).random(len(priorities))
    return np.sort(np.lexsort((lots, -priorities))[:size])
