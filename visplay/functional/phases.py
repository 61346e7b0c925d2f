"""Whose turn it is, and which images come next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

RoleName = Literal["questioner", "reasoner"]


@dataclass(frozen=True)
class Phase:
    """One role's turn to learn.

    Args:
        iteration: Counts from 1; an iteration is a Questioner phase followed by a Reasoner phase.
        role: The role that learns; the other one is frozen.
    """

    iteration: int
    role: RoleName

    def __post_init__(self) -> None:
        """Reject what is no phase."""
        if self.iteration < 1:
            raise ValueError(f"iteration: counts from 1, got {self.iteration}")
        if self.role not in get_args(RoleName):
            raise ValueError(f"role: must be one of {get_args(RoleName)}, got {self.role!r}")


FIRST_PHASE = Phase(iteration=1, role="questioner")


def next_phase(phase: Phase, turns: Sequence[RoleName] = ("questioner", "reasoner")) -> Phase:
    """Name the phase that follows: Questioner i, Reasoner i, Questioner i+1, ...

    Args:
        phase: The phase that ends.
        turns: The roles that learn in an iteration, in their order.

    Example:
        >>> next_phase(next_phase(FIRST_PHASE))
        Phase(iteration=2, role='questioner')
        >>> next_phase(Phase(1, "reasoner"), turns=["reasoner"])
        Phase(iteration=2, role='reasoner')
    """
    turn = turns.index(phase.role) + 1
    if turn < len(turns):
        return Phase(iteration=phase.iteration, role=turns[turn])
    return Phase(iteration=phase.iteration + 1, role=turns[0])


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
