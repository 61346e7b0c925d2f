"""Answered items on disk: written as they come, continued after a stop."""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from visplay.benchmark_answers import Answer, AnsweredItem, BatchAnswers
from visplay.data.files import json_line, naming

_FILE = re.compile(r"(.+)-rank(\d+)\.jsonl")
_ITEMS_AT_ONCE = 256


class RankedFile(NamedTuple):
    """A file that one rank has written about one benchmark."""

    benchmark: str
    rank: int
    path: Path


def ranked_files(directory: Path) -> list[RankedFile]:
    """All ``<benchmark>-rank<rank>.jsonl`` of a directory, sorted."""
    found = ((_FILE.fullmatch(path.name), path) for path in directory.glob("*-rank*.jsonl"))
    return sorted(RankedFile(match[1], int(match[2]), path) for match, path in found if match)


class AnswerStore:
    """The items of one model: JSON lines in ``<benchmark>-rank<rank>.jsonl``, in the order they were answered.

    A batch is appended in one call and forced to the disk, so that a process that is killed loses the batch under way
    and nothing else. Reading takes one line at a time.

    Args:
        directory: The directory, created with the first batch.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def repair(self) -> None:
        """Remove half a line at the end of a file, which a full disk or a crash of the machine may leave."""
        for found in ranked_files(self.directory):
            with found.path.open("rb+") as file:
                end = 0
                if found.path.stat().st_size:
                    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                        end = content.rfind(b"\n") + 1
                file.truncate(end)

    def benchmarks(self) -> list[str]:
        """Names of the benchmarks that have items, sorted."""
        return sorted({file.benchmark for file in ranked_files(self.directory)})

    def append(self, answers: BatchAnswers, rank: int = 0) -> None:
        """Add a batch; it survives this process, and the machine, once this returns.

        Raises:
            OSError: The disk does not take it; the error names the file.
        """
        records = [asdict(item) for item in answers.items]
        records += [{"key": key, "skipped": reason} for key, reason in answers.skipped.items()]
        if not records:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        lines = b"".join(json_line(record) for record in records)
        path = self.directory / f"{answers.benchmark}-rank{rank}.jsonl"
        with naming(path), path.open("ab", buffering=0) as file:
            if file.write(lines) != len(lines):
                raise OSError(f"{file.name}: the disk took part of a batch only")
            os.fsync(file.fileno())

    def read(self, benchmark: str, rank: int = 0, world_size: int = 1) -> Iterator[BatchAnswers]:
        """The items of a benchmark in batches; a rank reads the files of the ranks that are its own modulo the number.

        Of items that two processes wrote at once the first one counts.

        Raises:
            ValueError: A line is no item.
        """
        items: dict[str, AnsweredItem] = {}
        skipped: dict[str, str] = {}
        seen = set[str]()
        for key, found in self._records(benchmark, rank, world_size):
            if key in seen:
                continue
            seen.add(key)
            if isinstance(found, AnsweredItem):
                items[key] = found
            else:
                skipped[key] = found
            if len(items) + len(skipped) == _ITEMS_AT_ONCE:
                yield BatchAnswers(benchmark, tuple(items.values()), skipped)
                items, skipped = {}, {}
        if items or skipped:
            yield BatchAnswers(benchmark, tuple(items.values()), skipped)

    def items(self, benchmark: str) -> Iterator[AnsweredItem]:
        """The answered items of a benchmark."""
        return (item for answers in self.read(benchmark) for item in answers.items)

    def _records(self, benchmark: str, rank: int, world_size: int) -> Iterator[tuple[str, AnsweredItem | str]]:
        """Keys, each with the answered item or why it was skipped."""
        for found in ranked_files(self.directory):
            if found.benchmark != benchmark or found.rank % world_size != rank:
                continue
            with found.path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    try:
                        record = json.loads(line)
                        item: AnsweredItem | str = record["skipped"] if "skipped" in record else _read_item(record)
                        key = record["key"]
                    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                        raise ValueError(
                            f"directory: {found.path}:{number} is no item: {error!r}; delete the line"
                        ) from error
                    yield key, item


def _read_item(record: dict[str, Any]) -> AnsweredItem:
    greedy, samples = Answer(**record["greedy"]), tuple(Answer(**sample) for sample in record["samples"])
    return AnsweredItem(**record | {"greedy": greedy, "samples": samples})
