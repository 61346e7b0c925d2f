"""Labelled questions to validate on."""

from __future__ import annotations

from collections.abc import Sequence

from torch.utils.data import Dataset

from visplay.types import Example


class Benchmark(Dataset[Example]):
    """Questions with gold answers under a name.

    Args:
        name: Goes into the metrics' names.
        examples: The rows; keys differ.
        votes: Answers to sample per question besides the greedy one; 0 for none.
    """

    def __init__(self, name: str, examples: Sequence[Example], votes: int = 0) -> None:
        if len({example.key for example in examples}) != len(examples):
            raise ValueError(f"examples: the keys of benchmark {name!r} must differ")
        self.name = name
        self.examples = tuple(examples)
        self.votes = votes

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]
