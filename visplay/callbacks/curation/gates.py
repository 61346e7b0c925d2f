"""Admission gates: which of the questions that were asked and voted on are learned from, and why the others are not."""

from __future__ import annotations

import copy
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, NamedTuple

from visplay.functional.votes.admission import find_repeated, observed_quantile, vote_lead, why_outside
from visplay.types import Question, Vote


class Candidate(NamedTuple):
    """A question with a silver answer.

    Args:
        image: Key of the image.
        question: The question.
        vote: The vote on it, which gave the silver answer.
        views_agree: Whether a second view of it has the same winner; None where there was none, as for the next two.
        joint: The harmonic vote of both views.
        accuracy: How likely the silver answer is right, as far as both votes tell.
        blind: Whether the Reasoner gives the silver answer without the image; None where it was not asked.
    """

    image: str
    question: Question
    vote: Vote
    views_agree: bool | None = None
    joint: Vote | None = None
    accuracy: float | None = None
    blind: bool | None = None


class Gate(ABC):
    """Says of each question with a silver answer whether it is kept, or why not.

    A subclass is a dataclass, whose arguments are its settings. What it remembers from one iteration to the next is
    its state. All ranks ask it the same: it must not depend on anything but its settings, its state and the candidates.

    Attributes:
        name: What its rejections are counted under and its state is stored under; different for each gate of a run.
        needs: What must be known of a candidate: "view", for which ``self_play.curation.second_view`` is needed, and
            "blind", the answer without the image, which is asked for then.
        reads_votes: Whether it reads more of a vote than the silver answer, for example its confidence.
    """

    name: str
    needs: ClassVar[Collection[str]] = ()
    reads_votes: ClassVar[bool] = True

    @abstractmethod
    def judge(self, candidates: Sequence[Candidate]) -> Sequence[str | None]:
        """Judge the questions of an iteration, once.

        Args:
            candidates: What the gates before this one kept, in the order asked; may be empty.

        Returns:
            One for each candidate: None to keep it, or a reason, one of a few short words such as "below".
        """

    def state_dict(self) -> dict[str, Any]:
        """What later iterations depend on, as JSON values; nothing by default."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:  # noqa: B027 (most gates have no state)
        """Undo ``state_dict``; an empty state is that before the first iteration."""


@dataclass(frozen=True)
class ConfidenceBand(Gate):
    """Keeps what is neither too easy nor too hard: low <= c <= high (Eq. 9 of VisPlay, arXiv 2511.15661).

    The band of ``self_play.curation.low`` and ``high`` is one, before all other gates. Reasons: "below", "above".

    Args:
        low: Least confidence that is kept.
        high: Highest confidence that is kept.
        name: Of the gate.
    """

    low: float = 0.25
    high: float = 0.75
    name: str = "confidence_band"

    def __post_init__(self) -> None:
        """Reject an empty band."""
        _check_ends(self.low, self.high)

    def judge(self, candidates: Sequence[Candidate]) -> list[str | None]:
        """Compare each confidence with both ends."""
        return [why_outside(each.vote.confidence, self.low, self.high) for each in candidates]


@dataclass(frozen=True)
class QuantileBand(Gate):
    """Keeps the questions whose confidence is between two quantiles of those that it sees: Q(low) <= c <= Q(high).

    Q is ``observed_quantile``, over the confidences of this iteration that the gates before it kept. As the Reasoner
    grows sure, a fixed band keeps other questions; this one keeps the same part of them: at least high - low, more
    where confidences are equal. Not from a paper. Reasons: "below", "above".

    Args:
        low: Fraction of the confidences, in [0, 1].
        high: Fraction of the confidences, in [low, 1].
        name: Of the gate.
    """

    low: float
    high: float
    name: str = "quantile_band"

    def __post_init__(self) -> None:
        """Reject what are no fractions."""
        _check_ends(self.low, self.high)

    def judge(self, candidates: Sequence[Candidate]) -> list[str | None]:
        """Compare each confidence with both quantiles."""
        confidences = [each.vote.confidence for each in candidates]
        if not confidences:
            return []
        low, high = (observed_quantile(confidences, fraction) for fraction in (self.low, self.high))
        return [why_outside(confidence, low, high) for confidence in confidences]


@dataclass(frozen=True)
class Margin(Gate):
    """Keeps what the vote decides clearly: (n_1 - n_2) / K >= least, n_1 votes for the winner and n_2 for the next.

    One of two criteria of SCRL (arXiv 2603.19880) for a label, with 32 votes and more; of 10 votes .125 is a lead of 2.
    Reason: "close".

    Args:
        least: Least lead, as a fraction of all K answers, in [0, 1].
        name: Of the gate.
    """

    least: float = 0.125
    name: str = "margin"

    def __post_init__(self) -> None:
        """Reject what is no fraction."""
        check_least(self.least)

    def judge(self, candidates: Sequence[Candidate]) -> list[str | None]:
        """Compare each lead with the least."""
        return ["close" if vote_lead(each.vote) < self.least else None for each in candidates]


@dataclass
class NotAskedBefore(Gate):
    """Keeps a question the first time: what it let through, in this iteration or an earlier one, was asked before.

    Put it last, so that nothing counts as asked that another gate rejects. R-Diverse (arXiv 2602.13103) remembers
    questions across iterations too, and charges the Questioner for what is alike. Reason: "repeated". Its state is what
    it let through, by image.

    Args:
        threshold: BLEU distance below which average linkage takes questions for the same, as in Eq. 6; 0 takes equal
            words only, case and white space apart.
        same_image: Whether a question about another image is another question. If not, a threshold compares all pairs
            of questions of the run: time and memory grow with their square.
        name: Of the gate.
    """

    reads_votes: ClassVar[bool] = False
    threshold: float = 0.0
    same_image: bool = True
    name: str = "not_asked_before"
    _asked: dict[str, list[str]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Reject what is no distance."""
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold: must be in [0, 1], got {self.threshold}")

    def judge(self, candidates: Sequence[Candidate]) -> list[str | None]:
        """Compare each question with those before it, and remember those that say something new."""
        members: dict[str, list[int]] = {}
        for index, each in enumerate(candidates):
            members.setdefault(each.image if self.same_image else "", []).append(index)
        before = [self._asked.get(image, []) for image in members]
        now = [[candidates[index].question.text for index in indices] for indices in members.values()]
        found = find_repeated([[*old, *new] for old, new in zip(before, now, strict=True)], self.threshold)
        reasons: list[str | None] = [None] * len(candidates)
        for (image, indices), old, repeated in zip(members.items(), before, found, strict=True):
            for index, again in zip(indices, repeated[len(old) :], strict=True):
                if again:
                    reasons[index] = "repeated"
                else:
                    self._asked.setdefault(image, []).append(candidates[index].question.text)
        return reasons

    def state_dict(self) -> dict[str, Any]:
        """The questions that were let through, by image."""
        return {"asked": self._asked}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Undo ``state_dict``."""
        self._asked = state_dict.get("asked", {})


def admit(gates: Sequence[Gate], candidates: Sequence[Candidate]) -> list[str | None]:
    """Ask one gate after the other; each sees what those before it kept.

    Args:
        gates: In the order they are asked.
        candidates: The questions of an iteration that have a silver answer.

    Returns:
        One for each candidate: None if every gate keeps it, else ``gate/reason`` of the first that does not.

    Raises:
        ValueError: A gate does not judge each candidate.

    Example:
        >>> votes = [Vote("a", c, (("a", round(10 * c)), ("b", round(10 - 10 * c))), 10, 10) for c in (0.9, 0.6, 0.7)]
        >>> candidates = [Candidate("cat.png", Question("How many?", "numerical"), vote) for vote in votes]
        >>> admit([ConfidenceBand(0.3, 0.8), Margin(0.3)], candidates)
        ['confidence_band/above', 'margin/close', None]
    """
    rejected: list[str | None] = [None] * len(candidates)
    for gate in gates:
        left = [index for index, reason in enumerate(rejected) if reason is None]
        reasons = gate.judge([candidates[index] for index in left])
        if len(reasons) != len(left):
            raise ValueError(f"gates: {gate.name!r} must judge each of {len(left)} candidates, got {len(reasons)}")
        for index, reason in zip(left, reasons, strict=True):
            rejected[index] = None if reason is None else f"{gate.name}/{reason}"
    return rejected


def gate_states(gates: Sequence[Gate]) -> dict[str, dict[str, Any]]:
    """Copies of the states of gates, by name."""
    return {gate.name: copy.deepcopy(gate.state_dict()) for gate in gates}


def load_gate_states(gates: Sequence[Gate], states: Mapping[str, Mapping[str, Any]]) -> None:
    """Undo ``gate_states``; a gate that was not there begins anew."""
    for gate in gates:
        gate.load_state_dict(copy.deepcopy(states.get(gate.name, {})))


def describe_gate(gate: Gate) -> dict[str, Any]:
    """All that a gate's reasons follow from, as JSON values: its class, its settings, and a hash of its state."""
    settings = {each.name: getattr(gate, each.name) for each in fields(gate) if each.init}  # type: ignore[arg-type]
    state = json.dumps(gate.state_dict(), sort_keys=True).encode()
    name = f"{type(gate).__module__}.{type(gate).__qualname__}"
    return {"class": name, "settings": settings, "state": hashlib.sha256(state).hexdigest()}


def check_least(least: float) -> None:
    """Reject a limit of a gate that is no fraction, with a ValueError."""
    if not 0 <= least <= 1:
        raise ValueError(f"least: must be in [0, 1], got {least}")


def _check_ends(low: float, high: float) -> None:
    if not 0 <= low <= high <= 1:
        raise ValueError(f"low, high: need 0 <= low <= high <= 1, got low={low}, high={high}")
