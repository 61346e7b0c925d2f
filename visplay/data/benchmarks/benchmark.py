"""Labelled questions to evaluate on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Protocol, runtime_checkable

from torch.utils.data import Dataset

from visplay.benchmark_answers import BenchmarkBatch
from visplay.data.images.image_folder import UnusableItemError
from visplay.types import Example


@runtime_checkable
class Rows(Protocol):
    """Rows that are read when they are asked for."""

    @property
    def keys(self) -> Sequence[str]:
        """Identity of every row, good or bad."""

    def __getitem__(self, index: int) -> Example:
        """One row, or ``UnusableItemError``."""

    def texts(self, index: int) -> tuple[str, str]:
        """Question and gold answer of a row, without its images."""


class Benchmark(Dataset[Example]):
    """Questions with gold answers under a name.

    Args:
        name: Goes into the metrics' names.
        examples: The rows, in memory or read when they are asked for; keys differ.
        votes: Answers to sample per question besides the greedy one; 0 for none.
        scoring: Which metrics it has of its own, see ``visplay.metrics.BenchmarkScores``.

    Attributes:
        keys: Identities of all rows, good or bad, in the order of the source.
        skipped: Rows that turned out unusable when they were read, reason by key.

    Raises:
        ValueError: If two rows have the same key.
    """

    def __init__(
        self, name: str, examples: Sequence[Example] | Rows, votes: int = 0, scoring: str = "accuracy"
    ) -> None:
        self.keys = tuple(examples.keys) if isinstance(examples, Rows) else tuple(e.key for e in examples)
        self._index = {key: index for index, key in enumerate(self.keys)}
        if len(self._index) != len(self.keys):
            repeated = [key for key, count in Counter(self.keys).items() if count > 1]
            raise ValueError(f"examples: the keys of benchmark {name!r} must differ; repeated: {repeated[:5]}")
        self.name = name
        self.examples = examples if isinstance(examples, Rows) else tuple(examples)
        self.votes = votes
        self.scoring = scoring
        self.skipped: dict[str, str] = {}

    def __len__(self) -> int:
        """Number of rows, good or bad."""
        return len(self.keys)

    def __getitem__(self, index: int) -> Example:
        """Read one row; an IndexError if there is none, an ``UnusableItemError`` if it cannot be used."""
        return self.examples[range(len(self))[index]]

    def read_usable(self, indices: Sequence[int]) -> list[Example]:
        """Read the usable ones among some rows; the others are counted in ``skipped`` and logged."""
        examples = []
        for index in indices:
            try:
                examples.append(self[index])
            except UnusableItemError as error:
                error.count_in(self.skipped)
        return examples

    def check(self, key: str, problem: str, answer: str) -> None:
        """Reject a result that was made from another row than the one that its key names.

        Raises:
            ValueError: There is no row of this key, or it has another question or another gold answer than the result.
        """
        index = self._index.get(key)
        if index is None:
            raise ValueError(f"key: benchmark {self.name!r} has no row {key!r}")
        if isinstance(self.examples, Rows):
            texts = self.examples.texts(index)
        else:
            texts = self.examples[index].problem, self.examples[index].answer
        for what, found, expected in zip(("problem", "answer"), (problem, answer), texts, strict=True):
            if found != expected:
                raise ValueError(
                    f"{what}: benchmark {self.name!r} has {expected!r} in the row {key!r}, got {found!r}; "
                    "the rows are shifted, or the file has changed"
                )


class BenchmarkBatches:
    """The rows of a benchmark that are still to be answered, in batches.

    The batches are cut from the whole benchmark and dealt out to the ranks in turn, so that who is answered with whom
    depends neither on the number of ranks nor on where an earlier run was stopped. All ranks have as many, so that none
    waits for another in vain, and at least one, or a trainer would pass the evaluation over: the last may be empty.

    Args:
        benchmark: The benchmark.
        size: Rows of a batch, at least 1.
        done: Keys of the rows that need no answer any more.
        rank: Whose batches.
        world_size: Number of ranks.
    """

    def __init__(
        self, benchmark: Benchmark, size: int, done: Collection[str] = (), rank: int = 0, world_size: int = 1
    ) -> None:
        if size < 1:
            raise ValueError(f"size: a batch must have at least 1 row, got {size}")
        self.benchmark = benchmark
        cuts = [range(start, min(start + size, len(benchmark))) for start in range(0, len(benchmark), size)]
        left = [[row for row in cut if benchmark.keys[row] not in done] for cut in cuts]
        batches = [rows for rows in left if rows]
        length = max(1, -(-len(batches) // world_size))
        own = batches[rank::world_size]
        self._rows = own + [[]] * (length - len(own))

    def __len__(self) -> int:
        """Number of batches, at least 1."""
        return len(self._rows)

    def __iter__(self) -> Iterator[BenchmarkBatch]:
        """The batches, in the order of the source."""
        for rows in self._rows:
            examples = self.benchmark.read_usable(rows)
            usable = {example.key for example in examples}
            keys = (self.benchmark.keys[row] for row in rows)
            skipped = {key: self.benchmark.skipped[key] for key in keys if key not in usable}
            yield BenchmarkBatch(self.benchmark.name, self.benchmark.votes, tuple(examples), skipped)
