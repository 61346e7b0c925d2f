"""The data sets that earlier iterations generated: files on record, and rows chosen from several of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from visplay.data.files import sha256
from visplay.data.generated import GeneratedDataset
from visplay.functional.replay_priorities import hold_highest
from visplay.types import Example


class DatasetFile(NamedTuple):
    """A generated data set on the disk, by reference.

    Args:
        path: The parquet file.
        sha256: Its hash when it was written.
    """

    path: str
    sha256: str

    def open(self) -> GeneratedDataset:
        """The data set.

        Raises:
            ValueError: It is gone, or another one.
        """
        if fault := self.find_fault():
            raise ValueError(
                f"dataset: that of an earlier iteration {fault}: {self.path!r}; this phase needs it, so put the file "
                "back, or continue from a checkpoint of before the phase that made it"
            )
        return GeneratedDataset(self.path)

    def find_fault(self) -> str | None:
        """What is wrong with the file; None if nothing is."""
        path = Path(self.path)
        if not path.is_file():
            return "is gone"
        return None if sha256(path) == self.sha256 else "has changed"


def pool(files: Sequence[DatasetFile]) -> ChosenRows:
    """All rows of data sets, one after the other.

    Raises:
        ValueError: A file is gone, or another one.
    """
    datasets = [file.open() for file in files]
    return ChosenRows(datasets, [(n, row) for n, dataset in enumerate(datasets) for row in range(len(dataset))])


def draw_questions(files: Sequence[DatasetFile], most: int, seed: int) -> tuple[str, ...]:
    """Questions of data sets, each text once; of more than ``most`` a uniform sample.

    Raises:
        ValueError: A file is gone, or another one.
    """
    texts = list(dict.fromkeys(text for file in files for text in file.open().column("problem")))
    return tuple(texts[index] for index in hold_highest(np.zeros(len(texts)), most, seed))


class ChosenRows(Dataset[Example]):
    """Rows of several data sets as one collection; nothing is copied.

    Args:
        datasets: The data sets.
        rows: Which one each row is of, and its index there.
    """

    def __init__(self, datasets: Sequence[GeneratedDataset], rows: Sequence[tuple[int, int]]) -> None:
        self.datasets = datasets
        self.rows = rows

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        """Decode one row; an IndexError if there is none, an ``UnusableItemError`` if its image is broken."""
        dataset, row = self.rows[index]
        return self.datasets[dataset][row]
