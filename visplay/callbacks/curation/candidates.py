"""What the gates judge: the questions of an iteration that have a silver answer, with what is known of each."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from visplay.callbacks.curation.curation import AskedQuestion, Curation
from visplay.callbacks.curation.gates import Candidate
from visplay.functional.votes.views import LabelAccuracy, harmonic_vote, same_winner, support
from visplay.grading.equivalence import canonical_form
from visplay.modules.reasoner import Reasoner
from visplay.types import Vote


class CandidateFinder:
    """Tells which questions have a silver answer, and why the others have none.

    Args:
        config: Which votes there are, and which of them is the label.
        reasoner: Says what a valid vote is, and compares answers.
    """

    def __init__(self, config: Curation, reasoner: Reasoner) -> None:
        self.view = config.second_view
        self.asks_blind = "blind" in config.needs
        self.voting = config.voting or reasoner.voting
        self.reasoner = reasoner
        self._second = reasoner.voting if self.view is None else self.view.voting or reasoner.voting

    def __call__(self, asked: Sequence[AskedQuestion]) -> list[Candidate | str]:
        """Each question of an iteration as a candidate, or the reason why it is none: one of a few short words."""
        with self.reasoner.grader.bounded():
            found = [self._find(each) for each in asked]
            return found if self.view is None else self._estimate(self.view.accuracy, asked, found)

    def valid_vote(self, asked: AskedQuestion) -> Vote | None:
        """The first vote, where it is valid."""
        return asked.vote if self.reasoner.is_valid(asked.vote, self.voting) else None

    def _find(self, asked: AskedQuestion) -> Candidate | str:
        if asked.question is None:
            return "unparsed_question"
        first = self.valid_vote(asked)
        if first is None:
            return "too_long" if asked.vote is None else "unparsed_answers"
        if self.view is None:
            return self._label(Candidate(asked.image, asked.question, first), asked.blind)
        second = asked.view if self._counts(asked.view) else None
        joint = harmonic_vote(first, second, self.reasoner.grader)
        label = first if self.view.label == "first" else joint
        if label.answer is None:
            return "no_common_answer"
        agree = same_winner(first, second, self.reasoner.grader)
        return self._label(Candidate(asked.image, asked.question, label, agree, joint), asked.blind)

    def _estimate(
        self, curve: LabelAccuracy, asked: Sequence[AskedQuestion], found: Sequence[Candidate | str]
    ) -> list[Candidate | str]:
        """Give each candidate its accuracy; how sure the first vote is counts against the mean over all of them."""
        firsts, seconds = dict[int, float](), dict[int, float]()
        for index, candidate in enumerate(found):
            if isinstance(candidate, Candidate):
                silver, view = str(candidate.vote.answer), asked[index].view
                firsts[index] = support(asked[index].vote, silver, self.reasoner.grader)
                seconds[index] = support(view if self._counts(view) else None, silver, self.reasoner.grader)
        mean = fmean(firsts.values()) if firsts else 0.0
        return [
            each._replace(accuracy=curve(seconds[index], firsts[index] - mean)) if isinstance(each, Candidate) else each
            for index, each in enumerate(found)
        ]

    def _counts(self, second: Vote | None) -> bool:
        """Whether a second vote is valid; the Questioner's own answer is."""
        return second is not None and (second.total == 1 or self.reasoner.is_valid(second, self._second))

    def _label(self, found: Candidate, blind: str | None) -> Candidate | str:
        if found.vote.tied and self.voting.ties == "reject":
            return "tied"
        if not self.asks_blind:
            return found
        grader, silver = self.reasoner.grader, str(found.vote.answer)
        answer = None if blind is None else canonical_form(grader)(blind)
        return found._replace(blind=answer is not None and (answer == silver or grader(answer, silver)))
