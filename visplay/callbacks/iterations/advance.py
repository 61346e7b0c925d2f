"""Whether self-play moves on: a phase that brought nothing can be repeated, undone, or end the run.

The authors warn that a failed first iteration traps the second in a local minimum.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import hypot
from typing import Literal

from visplay.types import PhaseState

Decision = Literal["advance", "repeat", "rollback", "restart", "stop"]


@dataclass(frozen=True)
class PhaseReport:
    """What is known of a phase that ends, or whose data set was just made.

    Args:
        phase: Its role and iteration, and how often it has been repeated already.
        learns_from: What its role learns from, "images" or "examples".
        history: The logged statistics of its steps.
        curation: What the data set of the iteration is like; empty before the first one.
        scores: The validation of this phase, ``val/benchmark_measure``; empty if there was none.
        scores_before: The last validation before the phase; empty if there was none.
        curation_before: What the last data set is like that was learned from before; empty if there was none.
    """

    phase: PhaseState
    learns_from: str
    history: Sequence[dict[str, float]]
    curation: dict[str, float]
    scores: dict[str, float]
    scores_before: dict[str, float]
    curation_before: dict[str, float] = field(default_factory=dict)


class AdvanceRule(ABC):
    """Moves on if a metric of the phase exceeds a limit; subclasses say which.

    Args:
        least: The limit.
        otherwise: What happens to a phase that does not exceed it: "repeat" or "stop".
        max_repeats: Repeats of one phase; after them self-play moves on all the same.

    Attributes:
        goes_back: To which weights the rule may have a run go back before a data set is learned from: "rollback" or
            "restart"; None if to none. They are kept then.
    """

    goes_back: Literal["rollback", "restart"] | None = None
    otherwise: Decision

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

    def decide_on_dataset(self, report: PhaseReport) -> Decision:
        """Say whether the data set that was just made is learned from ("advance"), or what happens instead.

        "rollback" has every policy go back to what it was when it made the last data set that was learned from, and the
        next iteration begin; "restart" has the policy that learns go back to what the run began with, and the phase
        learn from all data sets that were learned from before; "stop" ends the run.
        """
        return "advance"


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


class EstimatedAccuracyGain(AdvanceRule):
    """Measures how much the estimated accuracy of silver answers rose, before they are learned from.

    Curation estimates it without labels, of questions of the Questioner whose phase has just ended and votes of the
    Reasoner as its last phase left it: an estimate judges these two phases, and the last Reasoner's phase of a run is
    never judged. It is compared with that of the last data set that was learned from. Where the metric has an interval
    (``<metric>_low`` and ``<metric>_high``), what counts is the upper limit of the gain, as of two independent
    proportions (Newcombe, 1998): an iteration is undone for a fall beyond chance.

    Args:
        tolerance: A fall of at most this is none.
        otherwise: What happens at a fall, see ``AdvanceRule.decide_on_dataset``: "rollback", "restart" or "stop".
        metric: Of the statistics of curation.

    Raises:
        ValueError: ``tolerance`` is negative, or there is no such ``otherwise``.
    """

    def __init__(
        self,
        tolerance: float = 0.0,
        otherwise: Literal["rollback", "restart", "stop"] = "rollback",
        metric: str = "estimated_silver_accuracy",
    ) -> None:
        if otherwise not in ("rollback", "restart", "stop"):
            raise ValueError(f"otherwise: must be 'rollback', 'restart' or 'stop', got {otherwise!r}")
        if not tolerance >= 0:
            raise ValueError(f"tolerance: must be at least 0, got {tolerance}")
        super().__init__(0.0 - tolerance)
        self.otherwise = otherwise
        self.goes_back = None if otherwise == "stop" else otherwise
        self.metric = metric

    def measure(self, report: PhaseReport) -> float | None:
        """Upper limit of the gain; None where images are learned from, or no data set was learned from before.

        Raises:
            KeyError: Curation has no such metric.
        """
        if report.learns_from != "examples" or not report.curation_before:
            return None
        for statistics in (report.curation, report.curation_before):
            if self.metric not in statistics:
                raise KeyError(f"metric: {self.metric!r} was not measured; curation gave {sorted(statistics)}")
        before, now = report.curation_before[self.metric], report.curation[self.metric]
        below = before - report.curation_before.get(f"{self.metric}_low", before)
        above = report.curation.get(f"{self.metric}_high", now) - now
        return now - before + hypot(below, above)

    def decide(self, report: PhaseReport) -> Decision:
        """Move on: what the phase was worth is known once the next data set is made."""
        return "advance"

    def decide_on_dataset(self, report: PhaseReport) -> Decision:
        """Learn from the data set, unless the estimate falls."""
        gain = self.measure(report)
        return self.otherwise if gain is not None and gain < self.least else "advance"
