"""Whether self-play moves on after a phase: one that brought nothing can be repeated, or end the run.

The authors warn that a failed first iteration traps the second in a local minimum.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from visplay.types import PhaseState

Decision = Literal["advance", "repeat", "stop"]


@dataclass(frozen=True)
class PhaseReport:
    """What is known of a phase that ends.

    Args:
        phase: Its role and iteration, and how often it has been repeated already.
        learns_from: What its role learns from, "images" or "examples".
        history: The logged statistics of its steps.
        curation: What the data set of the iteration is like; empty before the first one.
        scores: The validation of this phase, ``val/benchmark_measure``; empty if there was none.
        scores_before: The last validation before the phase; empty if there was none.
    """

    phase: PhaseState
    learns_from: str
    history: Sequence[dict[str, float]]
    curation: dict[str, float]
    scores: dict[str, float]
    scores_before: dict[str, float]


class AdvanceRule(ABC):
    """Moves on if a metric of the phase exceeds a limit; subclasses say which.

    Args:
        least: The limit.
        otherwise: What happens to a phase that does not exceed it: "repeat" or "stop".
        max_repeats: Repeats of one phase; after them self-play moves on all the same.
    """

    def __init__(
        self, least: float = 0.0, otherwise: Literal["repeat", "stop"] = "repeat", max_repeats: int = 1
    ) -> None:
        if otherwise not in ("repeat", "stop"):
            raise ValueError(f"otherwise: must be 'repeat' or 'stop', got {otherwise!r}")
        if max_repeats < 1:
            raise ValueError(f"max_repeats: must be at least 1, got {max_repeats}")
        self.least = least
        self.otherwise = otherwise
        self.max_repeats = max_repeats

    @abstractmethod
    def measure(self, report: PhaseReport) -> float | None:
        """What is compared with ``least``; None where the rule does not apply to the phase."""

    def decide(self, report: PhaseReport) -> Decision:
        """Say what follows the phase."""
        measured = self.measure(report)
        if measured is None or measured > self.least:
            return "advance"
        if self.otherwise == "stop":
            return "stop"
        return "repeat" if report.phase.attempt < self.max_repeats else "advance"


class RewardGain(AdvanceRule):
    """Measures how much the mean reward rose, from the first steps of the phase to the last.

    Args:
        least: The gain must exceed this.
        otherwise: What happens if it does not.
        max_repeats: Repeats of one phase.
        window: Steps averaged at either end; phases of fewer than twice as many are halved.
    """

    def __init__(
        self,
        least: float = 0.0,
        otherwise: Literal["repeat", "stop"] = "repeat",
        max_repeats: int = 1,
        window: int = 5,
    ) -> None:
        super().__init__(least, otherwise, max_repeats)
        if window < 1:
            raise ValueError(f"window: must be at least 1, got {window}")
        self.window = window

    def measure(self, report: PhaseReport) -> float | None:
        """Mean reward of the last steps less that of the first; None for fewer than two steps."""
        rewards = [step["reward"] for step in report.history]
        window = min(self.window, len(rewards) // 2)
        return (sum(rewards[-window:]) - sum(rewards[:window])) / window if window else None


class VoteMargin(AdvanceRule):
    """Measures how clearly the majority leads in the votes that a phase learned from.

    Where it hardly leads, the silver answers are guesses.
    """

    def measure(self, report: PhaseReport) -> float | None:
        """Mean lead over the runner-up among the questions kept; None where images are learned from."""
        return report.curation.get("vote_margin") if report.learns_from == "examples" else None


class ValidationGain(AdvanceRule):
    """Measures how much a validation score rose.

    Args:
        metric: For example ``val/heldout/rule_accuracy``.
        least: The gain must exceed this.
        otherwise: What happens if it does not.
        max_repeats: Repeats of one phase.
    """

    def __init__(
        self,
        metric: str,
        least: float = 0.0,
        otherwise: Literal["repeat", "stop"] = "repeat",
        max_repeats: int = 1,
    ) -> None:
        super().__init__(least, otherwise, max_repeats)
        self.metric = metric

    def measure(self, report: PhaseReport) -> float | None:
        """The score after the phase less the last one before it; None where either was not validated.

        Raises:
            KeyError: Validation has no such metric.
        """
        if report.learns_from != "examples" or not report.scores or not report.scores_before:
            return None
        for scores in (report.scores, report.scores_before):
            if self.metric not in scores:
                raise KeyError(f"metric: {self.metric!r} was not measured; validation gave {sorted(scores)}")
        return report.scores[self.metric] - report.scores_before[self.metric]
