"""Admission gates that need more than the vote: a second view of the question, or the answer without the image."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

from visplay.callbacks.curation.gates import Candidate, Gate, check_least


@dataclass(frozen=True)
class AgreementOfViews(Gate):
    """Keeps what two views of a question answer alike, and both surely enough: one winner, harmonic mean >= least.

    As Self-Harmony chooses its labels (arXiv 2511.01191); that one winner is asked for on top is ours. Reasons:
    "differ", "weak".

    Args:
        least: Least harmonic mean of the fractions that the two votes give to one answer, in [0, 1].
        name: Of the gate.
    """

    needs: ClassVar[Collection[str]] = ("view",)
    least: float = 0.5
    name: str = "agreement_of_views"

    def __post_init__(self) -> None:
        """Reject what is no fraction."""
        check_least(self.least)

    def judge(self, candidates: Sequence[Candidate]) -> list[str | None]:
        """Compare the winners, then the harmonic mean with the least."""
        return [self._judge(each) for each in candidates]

    def _judge(self, candidate: Candidate) -> str | None:
        if not candidate.views_agree:
            return "differ"
        return "weak" if candidate.joint is None or candidate.joint.confidence < self.least else None


@dataclass(frozen=True)
class CalibratedAccuracy(Gate):
    """Keeps the questions whose silver answer is probably right: P(right) >= least.

    The probability is that of ``self_play.curation.second_view.accuracy``. Reason: "doubtful".

    Args:
        least: Least probability, in [0, 1].
        name: Of the gate.
    """

    needs: ClassVar[Collection[str]] = ("view",)
    least: float = 0.7
    name: str = "calibrated_accuracy"

    def __post_init__(self) -> None:
        """Reject what is no fraction."""
        check_least(self.least)

    def judge(self, candidates: Sequence[Candidate]) -> list[str | None]:
        """Compare each probability with the least."""
        return [None if (each.accuracy or 0.0) >= self.least else "doubtful" for each in candidates]


@dataclass(frozen=True)
class NeedsTheImage(Gate):
    """Keeps the questions whose silver answer the Reasoner does not give, greedily, without a look at the image.

    Agreement never forces looking (VISE, arXiv 2606.27373). Reason: "answered_blind".

    Args:
        name: Of the gate.
    """

    needs: ClassVar[Collection[str]] = ("blind",)
    reads_votes: ClassVar[bool] = False
    name: str = "needs_the_image"

    def judge(self, candidates: Sequence[Candidate]) -> list[str | None]:
        """Compare the silver answer with the one that was given without the image."""
        return ["answered_blind" if each.blind else None for each in candidates]
