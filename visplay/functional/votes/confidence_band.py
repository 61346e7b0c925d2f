"""Which questions are worth learning from: those in the confidence band."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from visplay.functional.votes.majority_vote import is_valid_vote
from visplay.types import Vote


def in_band(
    vote: Vote, low: float = 0.25, high: float = 0.75, min_parsed_fraction: float = 0.8, *, admit_ties: bool = False
) -> bool:
    """Whether a question has a label and is neither too easy nor too hard: low <= c <= high (Eq. 9).

    Args:
        vote: The vote on one question.
        low: Lower end of the band, included, in [0, 1].
        high: Upper end of the band, included, in [0, 1].
        min_parsed_fraction: Least fraction of the answers that must have parsed, in [0, 1].
        admit_ties: Whether the answer drawn from a tie is a label.

    Raises:
        ValueError: The band is empty or leaves [0, 1].
    """
    if not 0.0 <= low <= high <= 1.0:
        raise ValueError(f"low, high: need 0 <= low <= high <= 1, got low={low} and high={high}")
    return _has_label(vote, min_parsed_fraction, admit_ties) and low <= vote.confidence <= high


def keep_in_band(
    votes: Sequence[Vote | None],
    low: float = 0.25,
    high: float = 0.75,
    min_parsed_fraction: float = 0.8,
    *,
    admit_ties: bool = False,
) -> list[int]:
    """Choose the questions in the band (Eq. 9).

    Args:
        votes: One vote per question; None where there was no question to vote on.
        low: Lower end of the band, included.
        high: Upper end of the band, included.
        min_parsed_fraction: Least fraction of the answers that must have parsed.
        admit_ties: Whether the answer drawn from a tie is a label.

    Returns:
        Ascending indices into ``votes``, so that identity travels with what is kept.
    """
    return [
        index
        for index, vote in enumerate(votes)
        if vote is not None and in_band(vote, low, high, min_parsed_fraction, admit_ties=admit_ties)
    ]


def relax_band(
    votes: Sequence[Vote | None],
    low: float,
    high: float,
    min_kept: int,
    min_parsed_fraction: float = 0.8,
    *,
    admit_ties: bool = False,
) -> tuple[float, float]:
    """Widen the band, nearest confidences first, no more than needed to keep ``min_kept`` questions.

    Args:
        votes: One vote per question; None where there was no question to vote on.
        low: Lower end of the band, included.
        high: Upper end of the band, included.
        min_kept: Questions to keep at least; if there are fewer with a label, the band takes all of them.
        min_parsed_fraction: Least fraction of the answers that must have parsed.
        admit_ties: Whether the answer drawn from a tie is a label.

    Returns:
        The ends of the band, in [0, 1]; ``(low, high)`` if it keeps enough.

    Example:
        >>> votes = [Vote("a", c, (("a", 1),), 1, 1) for c in (0.2, 0.5, 0.8, 1.0)]
        >>> relax_band(votes, 0.25, 0.75, min_kept=2)
        (0.2, 0.8)
    """
    labelled = [
        vote.confidence for vote in votes if vote is not None and _has_label(vote, min_parsed_fraction, admit_ties)
    ]
    missed = {confidence: round(max(low - confidence, confidence - high, 0.0), 9) for confidence in labelled}
    distances = sorted(missed[confidence] for confidence in labelled)
    if not distances or min_kept < 1:
        return low, high
    furthest = distances[min(min_kept, len(distances)) - 1]
    taken = [confidence for confidence, distance in missed.items() if distance <= furthest]
    return min(low, *taken), max(high, *taken)


def confidence_histogram(votes: Sequence[Vote | None], bins: int = 10) -> np.ndarray:
    """Count votes by confidence in equal bins over [0, 1].

    Bin i is i / bins <= c < (i + 1) / bins; the last one has 1 too. Questions without an answer do not count.

    Args:
        votes: One vote per question, or None.
        bins: Number of bins.

    Returns:
        (bins,) counts, int64.

    Raises:
        ValueError: ``bins`` is not positive.
    """
    if bins < 1:
        raise ValueError(f"bins: must be at least 1, got {bins}")
    confidences = np.array([vote.confidence for vote in votes if vote is not None and vote.answer is not None])
    # A fraction such as 3/10 must not fall below its own bin's edge by a rounding error.
    bin_numbers = np.floor(confidences * bins + 1e-9).astype(np.int64)
    return np.bincount(np.minimum(bin_numbers, bins - 1), minlength=bins)


def _has_label(vote: Vote, min_parsed_fraction: float, admit_ties: bool) -> bool:
    return is_valid_vote(vote, min_parsed_fraction) and (admit_ties or not vote.tied)
