"""What the study of a pretrained model learns from and is validated on: questions about whole numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from examples.pretrained.arithmetic import family_of, pose_many, solve
from examples.study.relabelling import Relabelling, draw_vote
from visplay.data.benchmarks.benchmark import Benchmark
from visplay.data.module import EvaluationStage
from visplay.types import Example, derive_seed

HELDOUT_QUESTIONS = 160
"""As many of each family as of the others."""


def heldout() -> list[Example]:
    """Questions with true answers, the same ones every time."""
    rng = np.random.default_rng(derive_seed("arithmetic", "heldout"))
    return [
        Example(f"heldout/{index}", None, question, str(solve(question)), problem_type=str(family_of(question)))
        for index, question in enumerate(pose_many(HELDOUT_QUESTIONS, rng))
    ]


class Arithmetic(Relabelling):
    """Self-play without images, validated on held-out arithmetic; held-out questions are never learned from.

    Args:
        votes: Answers sampled per held-out question.
        **data: Arguments of ``SelfPlayData``.
    """

    summary_scores: ClassVar[dict[str, str]] = {
        "heldout_greedy": "val/heldout/rule_accuracy",
        "heldout_sampled": "val/heldout/pass@1",
        "heldout_majority": "val/heldout/majority",
    }

    def __init__(self, votes: int = 10, **data: Any) -> None:
        super().__init__(**data)
        self.heldout = Benchmark("heldout", heldout(), votes)

    def benchmarks(self, stage: EvaluationStage = "test") -> Sequence[Benchmark]:
        """The held-out questions."""
        return (self.heldout, *super().benchmarks(stage))

    def answers(self, examples: Sequence[Example]) -> dict[int, str]:
        """The answers to learn from, but to held-out questions."""
        unseen = {example.problem for example in self.heldout.examples}
        found = {index: self.label(example) for index, example in enumerate(examples) if example.problem not in unseen}
        return {index: answer for index, answer in found.items() if answer is not None}

    def label(self, example: Example) -> str | None:
        """The answer to learn from; None leaves the question out."""
        return example.answer

    def silver_accuracy(self, examples: Iterable[Example]) -> float | None:
        """Fraction of the answers to learn from that are true, of the questions that have a true one."""
        pairs = [(each.answer, solve(each.problem)) for each in self._relabel(examples)]
        right = [answer == truth for answer, truth in pairs if truth is not None]
        return sum(right) / len(right) if right else None


class RandomAnswer(Arithmetic):
    """The silver answer is one of the votes, drawn, in place of the winner."""

    def label(self, example: Example) -> str:
        """A class of answers, as likely as it has votes."""
        return draw_vote(example)


class TrueLabels(Arithmetic):
    """The questions that self-play asks and keeps, with true answers; those that have none are left out."""

    def label(self, example: Example) -> str | None:
        """The truth."""
        return solve(example.problem)


def arithmetic_family(question: str) -> str:
    """The family of a question, for tables.

    Example:
        >>> arithmetic_family("What is 2 + 3?"), arithmetic_family("Why?")
        ('sum', 'other')
    """
    return family_of(question) or "other"
