"""What benchmarks ask and what was answered: the values that travel from the data to the metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from visplay.types import Example


@dataclass(frozen=True)
class BenchmarkBatch:
    """Items of a benchmark that are answered in one batch.

    Args:
        benchmark: Name of the benchmark.
        samples: K, answers to sample per question besides the greedy one; 0 for none.
        examples: The items that can be used; there may be none.
        skipped: Why the others cannot be used, by key.
    """

    benchmark: str
    samples: int = 0
    examples: tuple[Example, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """An answer to a benchmark's question.

    Args:
        text: The whole completion.
        finished: Whether the policy stopped by itself; False when it was truncated at the token limit.
        answer: What it answers, or None if that does not parse.
        correct: Whether that is equivalent to the gold answer, by rule.
    """

    text: str
    finished: bool
    answer: str | None
    correct: bool


@dataclass(frozen=True)
class AnsweredItem:
    """An item of a benchmark with what was answered; without its images.

    Args:
        key: Identity of the item.
        benchmark: Name of the benchmark.
        problem: The question.
        gold: The gold answer.
        metadata: What else the source says of the item, see ``Example``.
        greedy: The greedy answer.
        samples: K sampled answers.
        majority: The majority's answer among the samples, or None if none parsed.
        majority_correct: Whether that is equivalent to the gold answer, by rule.
    """

    key: str
    benchmark: str
    problem: str
    gold: str
    metadata: Mapping[str, str]
    greedy: Answer
    samples: tuple[Answer, ...] = ()
    majority: str | None = None
    majority_correct: bool = False


@dataclass(frozen=True)
class BatchAnswers:
    """What became of a ``BenchmarkBatch``: every one of its items is answered or skipped.

    Args:
        benchmark: Name of the benchmark.
        items: The answered items.
        skipped: Why the others were not answered, by key.
    """

    benchmark: str
    items: tuple[AnsweredItem, ...]
    skipped: Mapping[str, str]
