"""V-Zero (arXiv 2601.10094): a question is worth more where the vote corrects what the Questioner guessed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from visplay.functional import equivalent
from visplay.grading.equivalence import canonical_form
from visplay.types import Question, Vote


def dual_track(
    questions: Sequence[Sequence[Question | None]],
    votes: Sequence[Sequence[Vote | None]],
    equivalence: Callable[[str, str], bool] = equivalent,
) -> Tensor:
    """Pay min(c, 1 - c) where the vote is what the Questioner guessed, else c / 2.

    Args:
        questions: (N, G), each with the Questioner's guess; None did not parse.
        votes: (N, G); None where there was none.
        equivalence: A symmetric relation between normalised answers.

    Returns:
        (N, G) in [0, 1/2], float32; 0 without a guess or a vote.

    Example:
        >>> asked = [[Question("How many?", "numerical", answer="2"), Question("How many?", "numerical", answer="5")]]
        >>> dual_track(asked, [[Vote("2", 0.75, (("2", 3), ("3", 1)), 4, 4)] * 2]).tolist()
        [[0.25, 0.375]]
    """
    groups = zip(questions, votes, strict=True)
    return torch.tensor([[_pay(*each, equivalence) for each in zip(*group, strict=True)] for group in groups])


def _pay(question: Question | None, vote: Vote | None, equivalence: Callable[[str, str], bool]) -> float:
    if question is None or question.answer is None or vote is None or vote.answer is None:
        return 0.0
    guessed = equivalence(canonical_form(equivalence)(question.answer), vote.answer)
    return min(vote.confidence, 1 - vote.confidence) if guessed else vote.confidence / 2
