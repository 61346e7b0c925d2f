"""Whether self-play has something to gain from a base, by what it asks and how it votes before it has learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from visplay.functional.votes.views import LabelAccuracy, support
from visplay.grading.equivalence import equivalent
from visplay.types import Vote


@dataclass(frozen=True)
class Prospects:
    """What is known of a base without labels; all are fractions.

    Args:
        valid: Questions with a valid vote, of those asked.
        repeated: Questions asked before about the same image, of those that parsed.
        kept: Questions that the gates keep, of those asked.
        blind: Silver answers that are given without the image, of all silver answers.
        vote_accuracy: Silver answers that are right, estimated.
        single_accuracy: Single answers that are right, estimated.
        kept_accuracy: Silver answers that are right of the questions kept, estimated; 0 if there are none.
    """

    valid: float
    repeated: float
    kept: float
    blind: float
    vote_accuracy: float
    single_accuracy: float
    kept_accuracy: float

    @property
    def head_room(self) -> float:
        """By how much a vote is right more often than a single answer: what there is to elicit."""
        return self.vote_accuracy - self.single_accuracy


@dataclass(frozen=True)
class Requirements:
    """What a base must show for self-play to help it; how the limits were found is in docs/diagnosis.md.

    Args:
        valid: Least fraction of valid questions.
        kept: Least fraction of questions that the gates keep.
        head_room: Least lead of the vote over a single answer.
        kept_accuracy: Least fraction of right silver answers among the questions kept.
        blind: Greatest fraction of silver answers that are given without the image.
    """

    valid: float = 0.5
    kept: float = 0.1
    head_room: float = 0.135
    kept_accuracy: float = 0.4
    blind: float = 0.65

    def unmet(self, found: Prospects) -> list[str]:
        """Which of them a base does not meet, in words; none if self-play will help it.

        Example:
            >>> Requirements(head_room=0.1).unmet(Prospects(1.0, 0.0, 0.5, 0.2, 0.7, 0.65, 0.8))
            ['the vote is right hardly more often than a single answer: 0.70 against 0.65, and 0.10 more is needed']
        """
        reasons = []
        if found.valid < self.valid:
            reasons.append(
                f"too few questions are valid: {found.valid:.2f} of them, and {self.valid:.2f} are needed; look at the "
                "prompt, `format`, and the token limits"
            )
        if found.kept < self.kept:
            reasons.append(
                f"the gates keep too few questions: {found.kept:.2f} of them, and {self.kept:.2f} are needed; look at "
                "the confidences, and widen the band"
            )
        if found.head_room < self.head_room:
            reasons.append(
                f"the vote is right hardly more often than a single answer: {found.vote_accuracy:.2f} against "
                f"{found.single_accuracy:.2f}, and {self.head_room:.2f} more is needed"
            )
        if found.kept and found.kept_accuracy < self.kept_accuracy:
            reasons.append(
                f"too many labels are wrong: {found.kept_accuracy:.2f} of those kept are right, and "
                f"{self.kept_accuracy:.2f} are needed"
            )
        if found.blind > self.blind:
            reasons.append(
                f"the images are hardly needed: {found.blind:.2f} of the labels are given without them, and at most "
                f"{self.blind:.2f} may be"
            )
        return reasons


def single_answer_accuracy(
    label: str, second: Vote | None, accuracy: LabelAccuracy, equivalence: Callable[[str, str], bool] = equivalent
) -> float:
    """How likely a single answer is right: p s + (1 - p) r.

    A label that a fraction s of a second vote of the same policy supports is right with probability p. If it is not,
    the most frequent of the other answers is taken to be, which is a fraction r of that vote.

    Args:
        label: The silver answer of the first vote.
        second: A second vote, of other samples; None supports nothing.
        accuracy: Gives p from s.
        equivalence: A symmetric relation between normalised answers.

    Example:
        >>> second = Vote("2", 0.5, (("2", 5), ("3", 3), ("4", 2)), 10, 10)
        >>> round(single_answer_accuracy("2", second, LabelAccuracy(0.0, 0.0)), 3)  # p = .5
        0.4
    """
    if second is None or not second.parsed:
        return 0.0
    supported = support(second, label, equivalence)
    others = [count for name, count in second.counts if name != label and not equivalence(name, label)]
    probability = accuracy(supported)
    return probability * supported + (1 - probability) * max(others, default=0) / second.parsed
