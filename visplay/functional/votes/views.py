"""Two votes on one question: the answer that both support, and how often a silver answer is right, without labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from visplay.grading.equivalence import equivalent
from visplay.statistics.intervals import Estimate
from visplay.types import Vote


def support(vote: Vote | None, answer: str, equivalence: Callable[[str, str], bool] = equivalent) -> float:
    """Fraction of a vote's parsed answers whose class says the same as an answer, in [0, 1]; 0 without a vote.

    Args:
        vote: A vote, or None.
        answer: A normalised answer.
        equivalence: A symmetric relation between normalised answers.

    Example:
        >>> support(Vote("2", 0.75, (("2", 3), ("1/2", 1)), 4, 5), "0.5")
        0.25
    """
    if vote is None or not vote.parsed:
        return 0.0
    return _count(vote, answer, equivalence) / vote.parsed


def same_winner(first: Vote, second: Vote | None, equivalence: Callable[[str, str], bool] = equivalent) -> bool:
    """Whether two votes are for the same answer; a tie is for none.

    Example:
        >>> one = Vote("1/2", 1.0, (("1/2", 4),), 4, 4)
        >>> other = Vote("0.5", 0.5, (("0.5", 2), ("3", 2)), 4, 4, tied=True)
        >>> same_winner(one, one), same_winner(one, other)
        (True, False)
    """
    if second is None or first.answer is None or second.answer is None or first.tied or second.tied:
        return False
    return first.answer == second.answer or equivalence(first.answer, second.answer)


def harmonic_vote(first: Vote, second: Vote | None, equivalence: Callable[[str, str], bool] = equivalent) -> Vote:
    """The answer that both of two votes support: argmax 2 p q / (p + q) (Self-Harmony, arXiv 2511.01191).

    p and q are the fractions of each vote's parsed answers for it. What one of them does not know at all has 0.

    Args:
        first: A vote.
        second: A vote on another view of the same question; None supports nothing.
        equivalence: A symmetric relation between normalised answers.

    Returns:
        A vote whose confidence is the harmonic mean and whose counts are those of both votes; tied where two answers
        have the same, of which the one that the first vote prefers is named; without an answer where none is in both.

    Example:
        >>> first = Vote("a", 0.6, (("a", 6), ("b", 4)), 10, 10)
        >>> both = harmonic_vote(first, Vote("b", 0.5, (("b", 5), ("c", 4), ("a", 1)), 10, 10))
        >>> both.answer, round(both.confidence, 3), both.counts
        ('b', 0.444, (('b', 9), ('a', 7), ('c', 4)))
    """
    second = second or Vote(None, 0.0, (), 0, 0)
    joint = {name: (count, _count(second, name, equivalence)) for name, count in first.counts}
    joint |= {name: (0, count) for name, count in second.counts if not _count(first, name, equivalence)}
    scores = {name: _harmonic_mean(n / first.parsed, m / second.parsed) for name, (n, m) in joint.items() if n and m}
    totals = (first.parsed + second.parsed, first.total + second.total)
    if not scores:
        return Vote(None, 0.0, (), *totals)
    best = max(scores, key=lambda name: scores[name])
    tied = sum(math.isclose(score, scores[best]) for score in scores.values()) > 1
    counts = sorted(((name, n + m) for name, (n, m) in joint.items()), key=lambda each: (each[0] != best, -each[1]))
    return Vote(best, scores[best], tuple(counts), *totals, tied)


def _count(vote: Vote, answer: str, equivalence: Callable[[str, str], bool]) -> int:
    return sum(count for name, count in vote.counts if name == answer or equivalence(name, answer))


def _harmonic_mean(p: float, q: float) -> float:
    return 2 * p * q / (p + q)


@dataclass(frozen=True)
class LabelAccuracy:
    """How likely a silver answer is right, by what both votes give it; a logistic curve.

    P(right | s, d) = 1 / (1 + exp(-intercept - slope s - certainty d)): s is the fraction of the second vote that
    supports the answer, and d by how much the first vote is surer of it than of the other questions of its iteration:
    its fraction less the mean of these. As the Reasoner learns it grows sure of right and wrong answers alike, so that
    the fraction itself would say less in each iteration; the base, as second voter, does not change.
    The independence of two votes would give P(right) from how often they agree without any constant, but their errors
    are correlated and it comes out too high. The three constants here were fitted on the embedded world with the base
    as second voter (docs/gates.md).

    Args:
        intercept: Log-odds of an answer that the second vote does not support.
        slope: By which they rise until it supports no other, at least 0.
        certainty: By which they rise from d = 0 to d = 1, at least 0; 0 leaves the first vote out.

    Example:
        >>> curve = LabelAccuracy(-1.1, 4.1, 3.5)
        >>> [round(curve(s), 2) for s in (0, 0.3, 0.5, 1)]
        [0.25, 0.53, 0.72, 0.95]
        >>> [round(curve(0.5, d), 2) for d in (-0.3, 0.15)]
        [0.48, 0.81]
    """

    intercept: float = -1.1
    slope: float = 4.1
    certainty: float = 3.5

    def __post_init__(self) -> None:
        """Reject a curve that falls."""
        rises = all(math.isfinite(value) and value >= 0 for value in (self.slope, self.certainty))
        if not (rises and math.isfinite(self.intercept)):
            raise ValueError(
                "intercept, slope, certainty: must be finite, slope and certainty at least 0, got "
                f"{self.intercept}, {self.slope} and {self.certainty}"
            )

    def __call__(self, supported: float, surer: float = 0.0) -> float:
        """The probability for a fraction s in [0, 1] and a difference d in [-1, 1]."""
        return float(expit(self.intercept + self.slope * supported + self.certainty * surer))


def estimate_accuracy(probabilities: Sequence[float]) -> Estimate | None:
    """Fraction of silver answers that are right, from how likely each is, with the 95 % interval of such a fraction.

    The interval is what independent draws with these probabilities leave open, 1.96 sqrt(sum p (1 - p)) / n on both
    sides; errors of the curve that gave them come on top.

    Args:
        probabilities: Of n answers.

    Returns:
        The estimate; None without answers.

    Example:
        >>> estimate_accuracy([0.5] * 100)
        Estimate(value=0.5, low=0.402, high=0.598, size=100)
    """
    if not len(probabilities):
        return None
    p = np.asarray(probabilities)
    mean, half = float(p.mean()), 1.96 * float(np.sqrt((p * (1 - p)).sum())) / len(p)
    return Estimate(mean, max(0.0, mean - half), min(1.0, mean + half), len(p))
