"""The rows of one benchmark: read when asked for, each with all its images and an identity from the source."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Number
from pathlib import Path
from typing import Any

import datasets
from PIL.Image import Image

from visplay.data.benchmarks.benchmark_sources import BenchmarkSource
from visplay.data.cells import count_marks, read_metadata, read_options, read_text, write_problem
from visplay.data.columns import count_per_row, find_column, read_image, split_images
from visplay.data.decoding import ImageLimits
from visplay.data.images import UnusableItemError
from visplay.data.sources import find_origin, open_origin
from visplay.types import Example

logger = logging.getLogger(__name__)

KEY_COLUMNS = ("id", "question_id", "problem_id", "sample_index", "index", "pid")
_SHOWN = 5


@dataclass(frozen=True)
class _File:
    """One opened file.

    Args:
        name: Of the file, for keys.
        directory: Where relative paths in it start.
        images: Its column of images.
        table: Its rows.
    """

    name: str
    directory: Path | None
    images: str
    table: datasets.Dataset

    def column(self, name: str) -> list[Any]:
        """All values of a column."""
        return self.table.data.column(name).to_pylist()


class BenchmarkTable:
    """Rows of a benchmark in the order of the source; nothing is decoded before a row is asked for.

    The key is ``name/id``, or ``name/file:row`` where no column identifies the rows: the row number within the file,
    whatever is left out or cannot be used. ``image_id`` is the key. A row holds all its images in their order; one of
    which an image is missing is unusable, not shortened. Nulls after the last image of a row are padding.

    Args:
        source: What to read.
        files: Parquet or arrow files by the name that keys give them, in their order.
        max_images: Rows with more images are left out; None leaves none out.

    Attributes:
        keys: Identity of every row, good or bad.
        left_out: How many rows ``max_images`` left out.

    Raises:
        OSError: If a file is not there.
        ValueError: If a file is no table or lacks a column, no row is left, or the key column does not identify rows.
    """

    def __init__(self, source: BenchmarkSource, files: Mapping[str, Path], max_images: int | None = None) -> None:
        self.source = source
        self._files = [_open(source, name, path) for name, path in files.items()]
        rows = [(place, row) for place, file in enumerate(self._files) for row in _find_part(source, file)]
        if not rows:
            raise ValueError(_explain_no_part(source, self._files))
        identities = self._identify(rows)
        kept = range(len(rows)) if max_images is None else self._find_small(rows, max_images)
        if not kept:
            raise ValueError(f"max_images: benchmark {source.name!r} has no row with at most {max_images} images")
        self._rows = [rows[index] for index in kept]
        self.left_out = len(rows) - len(kept)
        self.keys: tuple[str, ...] = tuple(f"{source.name}/{identities[index]}" for index in kept)

    def __len__(self) -> int:
        """Number of rows, good or bad."""
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        """Read one row.

        Raises:
            IndexError: If there is no such index.
            UnusableItemError: If the row has no question, no answer or no image, an image of it is missing, does not
                decode or breaks the limits, or its options cannot be read.
        """
        index = range(len(self))[index]
        place, row = self._rows[index]
        file = self._files[place]
        try:
            return self._example(self.keys[index], file, file.table[row])
        except ValueError as error:
            raise UnusableItemError(self.keys[index], str(error)) from error

    def texts(self, index: int) -> tuple[str, str]:
        """Question and gold answer of a row as ``__getitem__`` gives them; its images are not decoded.

        Raises:
            UnusableItemError: If the row cannot be used for another reason than the content of its images.
        """
        place, number = self._rows[index]
        file = self._files[place]
        row = file.table[number]
        try:
            return self._texts(row, len(_take_images(row[file.images])))
        except ValueError as error:
            raise UnusableItemError(self.keys[index], str(error)) from error

    def _example(self, key: str, file: _File, row: dict[str, Any]) -> Example:
        columns, cells = self.source.columns, _take_images(row[file.images])
        problem, answer = self._texts(row, len(cells))
        first, *others = _decode(cells, file.directory, self.source.limits)
        used = (columns.problem, columns.answer, columns.problem_type, columns.options, file.images)
        return Example(
            key=key,
            image=first,
            problem=problem,
            answer=answer,
            problem_type=read_text(row, columns.problem_type),
            image_id=key,
            further_images=tuple(others),
            metadata=read_metadata(row, used, read_options(row.get(columns.options))),
        )

    def _texts(self, row: dict[str, Any], images: int) -> tuple[str, str]:
        columns = self.source.columns
        written, options = read_text(row, columns.problem), read_options(row.get(columns.options))
        if (named := count_marks("\n".join((written, *options)))) > images:
            raise ValueError(f"the {columns.problem} names {named} images, the row holds {images}")
        problem = write_problem(written, options, images, self.source.blank_problem or "")
        answer = read_text(row, columns.answer)
        for name, text in ((columns.problem, problem), (columns.answer, answer)):
            if not text:
                raise ValueError(f"no {name}: {row[name]!r}")
        return problem, answer

    def _find_small(self, rows: list[tuple[int, int]], max_images: int) -> list[int]:
        """Which of some rows have few enough images."""
        counts = [count_per_row(file.table.data.column(file.images)) for file in self._files]
        return [index for index, (place, row) in enumerate(rows) if counts[place][row] <= max_images]

    def _identify(self, rows: list[tuple[int, int]]) -> list[str]:
        """Identities of all rows of the benchmark, so that they do not depend on which are left out."""
        for column in self._key_candidates():
            values = [file.column(column) for file in self._files]
            identities = [_read_identity(values[place][row]) for place, row in rows]
            if fault := _find_fault(identities):
                if self.source.columns.key is not None:
                    raise ValueError(f"columns.key: {column!r} of benchmark {self.source.name!r} {fault}")
                logger.info("%s: %r does not identify rows, it %s", self.source.name, column, fault)
                continue
            return identities
        return [f"{self._files[place].name}:{row}" for place, row in rows]

    def _key_candidates(self) -> Iterator[str]:
        wanted = self.source.columns.key
        for name in KEY_COLUMNS if wanted is None else (wanted,):
            if all(name in file.table.column_names for file in self._files):
                yield name
            elif wanted is not None:
                _refuse_missing(self.source, "key", name, self._files)


def _open(source: BenchmarkSource, name: str, path: Path) -> _File:
    origin = find_origin(path, None)
    table = open_origin(origin)
    names = table.column_names
    for argument in ("problem", "answer"):
        column = getattr(source.columns, argument)
        if column not in names:
            raise ValueError(
                f"columns.{argument}: benchmark {source.name!r}: {path} has no column {column!r}, only {names}"
            )
    try:
        images = find_column(names, source.columns.images)
        count_per_row(table.data.column(images))
    except ValueError as error:
        raise ValueError(f"columns.images: benchmark {source.name!r}: no images in {path}: {error}") from error
    return _File(name, origin.directory, images, table)


def _find_part(source: BenchmarkSource, file: _File) -> list[int]:
    """Numbers of the rows that belong to the benchmark."""
    if source.part is None:
        return list(range(len(file.table)))
    if source.columns.part not in file.table.column_names:
        _refuse_missing(source, "part", source.columns.part, [file])
    return [row for row, part in enumerate(file.column(source.columns.part)) if part == source.part]


def _explain_no_part(source: BenchmarkSource, files: list[_File]) -> str:
    parts = Counter(str(part) for file in files for part in file.column(source.columns.part)) if source.part else {}
    return (
        f"part: benchmark {source.name!r} has no row whose {source.columns.part} is {source.part!r}; "
        f"its files hold {dict(parts)}"
    )


def _refuse_missing(source: BenchmarkSource, argument: str, column: str, files: list[_File]) -> None:
    names = {file.name: file.table.column_names for file in files}
    raise ValueError(f"columns.{argument}: benchmark {source.name!r} has no column {column!r} in all files: {names}")


def _read_identity(value: object) -> str:
    if not isinstance(value, str | Number) or isinstance(value, float):
        return ""
    return str(value).strip()


def _find_fault(identities: list[str]) -> str:
    """Why these do not identify rows; empty if they do."""
    if missing := [place for place, identity in enumerate(identities) if not identity]:
        return f"is empty, or neither text nor a whole number, in {len(missing)} rows"
    repeated = [identity for identity, count in Counter(identities).items() if count > 1]
    return f"has {len(repeated)} values more than once: {repeated[:_SHOWN]}" if repeated else ""


def _take_images(cell: object) -> list[Any]:
    """The single images of a cell, undecoded.

    Raises:
        ValueError: If there is none, or one before the last is missing.
    """
    groups = [split_images(part) for part in cell] if isinstance(cell, list) else [split_images(cell)]
    while groups and not groups[-1]:
        groups.pop()
    if not groups:
        raise ValueError("no image")
    for place, group in enumerate(groups, start=1):
        if not group:
            raise ValueError(f"image {place} of {len(groups)} is missing")
    return [image for group in groups for image in group]


def _decode(cells: list[Any], directory: Path | None, limits: ImageLimits) -> list[Image]:
    images = []
    for place, cell in enumerate(cells, start=1):
        try:
            images.append(read_image(cell, directory, limits))
        except ValueError as error:
            raise ValueError(f"image {place} of {len(cells)}: {error}") from error
    return images
