"""Answered rows whose gold answer is 7, and who is right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from visplay.answered import Answer, AnsweredRow, BatchAnswers
from visplay.evaluation import RowStore

GOLD = "7"
WRONG = "8"


def answer(correct: bool | None) -> Answer:
    """A right answer, a wrong one, or with None one that does not parse."""
    if correct is None:
        return Answer("I do not know", True, None, False)
    said = GOLD if correct else WRONG
    return Answer(f"So \\boxed{{{said}}}", True, said, correct)


def row(
    key: str, correct: bool | None, samples: Sequence[bool | None] = (), majority: bool = False, **metadata: str
) -> AnsweredRow:
    """A row of benchmark "b" with its greedy answer, K sampled ones and whether their majority is right."""
    said = (GOLD if majority else WRONG) if samples else None
    return AnsweredRow(
        key, "b", f"Question {key}?", GOLD, metadata, answer(correct), tuple(map(answer, samples)), said, majority
    )


def batch(*rows: AnsweredRow, benchmark: str = "b", **skipped: str) -> BatchAnswers:
    return BatchAnswers(benchmark, rows, skipped)


def stored(directory: Path, **benchmarks: Sequence[AnsweredRow]) -> RowStore:
    """A store with rows by benchmark."""
    store = RowStore(directory)
    for name, rows in benchmarks.items():
        store.append(batch(*rows, benchmark=name))
    return store
