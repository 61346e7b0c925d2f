"""What admission gates decide by: sides of a band, the lead of a vote, quantiles that occur, repeated questions."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np

from visplay.functional.diagnosis import fold_question
from visplay.functional.rewards.clustering import cluster_groups
from visplay.types import Vote


def why_outside(value: float, low: float, high: float) -> Literal["below", "above"] | None:
    """On which side of a band a value is, or None inside it; the ends are inside.

    Example:
        >>> [why_outside(value, 0.25, 0.75) for value in (0.2, 0.25, 0.75, 0.8)]
        ['below', None, None, 'above']
    """
    return "below" if value < low else "above" if value > high else None


def vote_lead(vote: Vote) -> float:
    """Lead of the winner over the runner-up as a fraction of all K answers: (n_1 - n_2) / K; 0 for a tie.

    Answers that did not parse count in K: they support neither. ``Vote.margin`` divides by those that parsed.

    Args:
        vote: The vote on one question.

    Example:
        >>> vote_lead(Vote("a", 0.625, (("a", 5), ("b", 3)), parsed=8, total=10))
        0.2
    """
    leaders = [count for _, count in vote.counts[:2]] + [0, 0]
    return 0.0 if vote.tied or not vote.total else max(leaders[0] - leaders[1], 0) / vote.total


def observed_quantile(values: Sequence[float], fraction: float) -> float:
    """The least of the values that at least this fraction of them does not exceed: the inverse of their distribution.

    It is one of the values, never between two: K votes give few confidences, many of them equal.

    Args:
        values: At least one.
        fraction: In [0, 1]; 0 is the least value, 1 the greatest.

    Raises:
        ValueError: There are no values, or the fraction is none.

    Example:
        >>> [observed_quantile([0.9, 0.3, 0.5, 0.5], fraction) for fraction in (0, 0.25, 0.5, 0.8)]
        [0.3, 0.3, 0.5, 0.9]
    """
    if not values or not 0 <= fraction <= 1:
        raise ValueError(f"values, fraction: need a value and 0 <= fraction <= 1, got {len(values)} and {fraction}")
    rank = int(np.ceil(round(fraction * len(values), 9)))  # 0.07 · 100 must not be more than 7 by a rounding error
    return sorted(values)[max(rank, 1) - 1]


def find_repeated(groups: Sequence[Sequence[str]], threshold: float = 0.0) -> list[list[bool]]:
    """Which questions say what one before them in their group says.

    Args:
        groups: N groups of questions, each in the order they were asked.
        threshold: Two say the same if average linkage joins them below this BLEU distance (Eq. 6 takes 0.5); 0 takes
            equal words only, see ``fold_question``.

    Returns:
        Of each group a truth value for each question; the first of those that say the same is none that repeats.

    Example:
        >>> find_repeated([["How many?", "Which?", "how  many?"], ["How many?"]])
        [[False, False, True], [False]]
    """
    if threshold > 0:
        return [_came_before(labels.tolist()) for labels in cluster_groups(groups, threshold)]
    return [_came_before([fold_question(text) for text in group]) for group in groups]


def _came_before(kinds: Sequence[Hashable]) -> list[bool]:
    first: dict[Hashable, int] = {}
    return [first.setdefault(kind, index) != index for index, kind in enumerate(kinds)]
