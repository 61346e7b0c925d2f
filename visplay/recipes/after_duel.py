"""After DUEL (arXiv 2605.24794): a true claim against its minimally false edit, labelled by construction.

The nearest that one question per completion allows; what is missing to DUEL is in docs/recipes.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from visplay.functional.votes.views import support
from visplay.modules import Questioner, VisPlay
from visplay.types import Completion, Proposal, Question, Vote, derive_seed


class Challenger(Questioner):
    """Writes a pair, the question part a true claim and the answer part its false edit, and asks which is true."""

    def parse(self, completion: Completion, opened: str = "") -> Question | None:
        """Both claims as options, in an order that follows from their words, with the letter of the true one."""
        pair = super().parse(completion, opened)
        if pair is None or pair.answer is None or pair.answer == pair.text:
            return None
        claims = (pair.text, pair.answer)
        right = derive_seed(*claims) % 2
        first, second = claims[right], claims[1 - right]
        return Question(f"Which is true of the image?\nA. {first}\nB. {second}", pair.kind, "ab"[right])


class Duel(VisPlay):
    """A claim's silver answer is the letter that it was written to have; its confidence, how many votes agree."""

    def propose(self, *args: Any, **settings: Any) -> list[Proposal]:
        """Ask and vote as ever, then label by construction."""
        return [
            replace(each, vote=self._label(each.question, each.vote)) for each in super().propose(*args, **settings)
        ]

    def _label(self, question: Question | None, vote: Vote | None) -> Vote | None:
        if question is None or question.answer is None or vote is None:
            return vote
        right, same = question.answer, self.reasoner.grader
        others = tuple((name, count) for name, count in vote.counts if name != right and not same(name, right))
        agree = vote.parsed - sum(count for _, count in others)
        return replace(vote, answer=right, confidence=support(vote, right, same), counts=((right, agree), *others))


def doubt(
    questions: Sequence[Sequence[Question | None]],
    votes: Sequence[Sequence[Vote | None]],
    equivalence: Callable[[str, str], bool],
) -> Tensor:
    """Pay for the fraction of votes that are for the false edit, (N, G); see ``visplay.functional.QuestionJudge``."""
    pairs = [list(zip(*group, strict=True)) for group in zip(questions, votes, strict=True)]
    return torch.tensor([[1 - support(v, str(q.answer), equivalence) if q else 0.0 for q, v in row] for row in pairs])
