"""Answered rows on disk: written as they come, continued after a stop."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from visplay.answered import Answer, AnsweredRow, BatchAnswers

_FILE = re.compile(r"(.+)-rank(\d+)\.jsonl")
_ROWS_AT_ONCE = 256
_BLOCK_BYTES = 1 << 16


def json_line(record: dict[str, Any]) -> bytes:
    """A line of JSON in UTF-8; a lone surrogate, which UTF-8 has no place for, is written as its escape."""
    return json.dumps(record, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"


class RankedFile(NamedTuple):
    """A file that one rank has written about one benchmark.

    Args:
        benchmark: Name of the benchmark.
        rank: The rank.
        path: Where it is.
    """

    benchmark: str
    rank: int
    path: Path


def ranked_files(directory: Path) -> list[RankedFile]:
    """All ``<benchmark>-rank<rank>.jsonl`` of a directory, sorted."""
    found = ((_FILE.fullmatch(path.name), path) for path in directory.glob("*-rank*.jsonl"))
    return sorted(RankedFile(match[1], int(match[2]), path) for match, path in found if match)


class RowStore:
    """The rows of one model: JSON lines in ``<benchmark>-rank<rank>.jsonl``, in the order they were answered.

    A batch is appended in one call and forced to the disk, so that a process that is killed loses the batch under way
    and nothing else. Reading takes one line at a time.

    Args:
        directory: The directory, created with the first batch.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def repair(self) -> None:
        """Cut off half a line at the end of a file, which a full disk or a crash of the machine may leave."""
        for found in ranked_files(self.directory):
            with found.path.open("rb+") as file:
                file.truncate(_end_of_last_line(file))

    def benchmarks(self) -> list[str]:
        """Names of the benchmarks that have rows, sorted."""
        return sorted({file.benchmark for file in ranked_files(self.directory)})

    def append(self, answers: BatchAnswers, rank: int = 0) -> None:
        """Add a batch; it survives this process, and the machine, once this returns.

        Raises:
            OSError: The disk does not take it.
        """
        records = [asdict(row) for row in answers.rows]
        records += [{"key": key, "skipped": reason} for key, reason in answers.skipped.items()]
        if not records:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        lines = b"".join(json_line(record) for record in records)
        with (self.directory / f"{answers.benchmark}-rank{rank}.jsonl").open("ab", buffering=0) as file:
            if file.write(lines) != len(lines):
                raise OSError(f"{file.name}: the disk took part of a batch only")
            os.fsync(file.fileno())

    def read(self, benchmark: str, rank: int = 0, world_size: int = 1) -> Iterator[BatchAnswers]:
        """The rows of a benchmark in batches; a rank reads the files of the ranks that are its own modulo the number.

        Of rows that two processes wrote at once the first one counts.

        Raises:
            ValueError: A line is no row.
        """
        rows: list[AnsweredRow] = []
        skipped: dict[str, str] = {}
        seen = set[str]()
        for record in self._records(benchmark, rank, world_size):
            key = record.key if isinstance(record, AnsweredRow) else record[0]
            if key in seen:
                continue
            seen.add(key)
            if isinstance(record, AnsweredRow):
                rows.append(record)
            else:
                skipped[key] = record[1]
            if len(rows) + len(skipped) == _ROWS_AT_ONCE:
                yield BatchAnswers(benchmark, tuple(rows), skipped)
                rows, skipped = [], {}
        if rows or skipped:
            yield BatchAnswers(benchmark, tuple(rows), skipped)

    def rows(self, benchmark: str) -> Iterator[AnsweredRow]:
        """The answered rows of a benchmark."""
        return (row for answers in self.read(benchmark) for row in answers.rows)

    def _records(self, benchmark: str, rank: int, world_size: int) -> Iterator[AnsweredRow | tuple[str, str]]:
        """Answered rows, and key and reason of skipped ones."""
        for found in ranked_files(self.directory):
            if found.benchmark != benchmark or found.rank % world_size != rank:
                continue
            with found.path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    try:
                        record = _read_record(json.loads(line))
                    except (ValueError, TypeError, KeyError, AttributeError) as error:
                        raise ValueError(
                            f"directory: {found.path}:{number} is no row: {error!r}; delete the line"
                        ) from error
                    yield record


def _end_of_last_line(file: BinaryIO) -> int:
    position = file.seek(0, os.SEEK_END)
    while position > 0:
        start = max(0, position - _BLOCK_BYTES)
        file.seek(start)
        if end := file.read(position - start).rfind(b"\n") + 1:
            return start + end
        position = start
    return 0


def _read_record(record: dict[str, Any]) -> AnsweredRow | tuple[str, str]:
    if "skipped" in record:
        return record["key"], record["skipped"]
    greedy, samples = Answer(**record.pop("greedy")), record.pop("samples")
    return AnsweredRow(greedy=greedy, samples=tuple(Answer(**sample) for sample in samples), **record)
