"""Answered items whose gold answer is 7, and who is right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from visplay.benchmark_answers import Answer, AnsweredItem, BatchAnswers
from visplay.evaluation import AnswerStore

GOLD = "7"
WRONG = "8"


def answer(correct: bool | None) -> Answer:
    """A right answer, a wrong one, or with None one that does not parse."""
    if correct is None:
        return Answer("I do not know", True, None, False)
    said = GOLD if correct else WRONG
    return Answer(f"So \\boxed{{{said}}}", True, said, correct)


def item(
    key: str, correct: bool | None, samples: Sequence[bool | None] = (), majority: bool = False, **metadata: str
) -> AnsweredItem:
    """A item of benchmark "b" with its greedy answer, K sampled ones and whether their majority is right."""
    said = (GOLD if majority else WRONG) if samples else None
    return AnsweredItem(
        key, "b", f"Question {key}?", GOLD, metadata, answer(correct), tuple(map(answer, samples)), said, majority
    )


def batch(*items: AnsweredItem, benchmark: str = "b", **skipped: str) -> BatchAnswers:
    return BatchAnswers(benchmark, items, skipped)


def stored(directory: Path, **benchmarks: Sequence[AnsweredItem]) -> AnswerStore:
    """A store with items by benchmark."""
    store = AnswerStore(directory)
    for name, items in benchmarks.items():
        store.append(batch(*items, benchmark=name))
    return store
