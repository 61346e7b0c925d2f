"""The rows of one benchmark: read when asked for, each with all its images and an identity from the source."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Number
from pathlib import Path
from typing import Any

import datasets

from visplay.data.benchmarks.benchmark_sources import BenchmarkSource
from visplay.data.images.image_columns import count_per_row, find_column, read_image, split_images
from visplay.data.images.image_folder import UnusableItemError
from visplay.data.question_text import count_marks, read_metadata, read_options, read_text, write_problem
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
        images: Its column of images; None where the questions have none.
        table: Its rows.
    """

    name: str
    directory: Path | None
    images: str | None
    table: datasets.Dataset

    def column(self, name: str) -> list[Any]:
        """All values of a column."""
        return self.table.data.column(name).to_pylist()

    def take_images(self, row: Mapping[str, Any]) -> list[Any]:
        """The single images of a row, undecoded; a ValueError where there should be some and are none."""
        return [] if self.images is None else _take_images(row[self.images])


class BenchmarkTable:
    """Rows of a benchmark in the order of the source; nothing is decoded before a row is asked for.

    The key is ``name/id``, or ``name/file:row`` where no column identifies the rows: the row number within the file,
    whatever is left out or cannot be used. ``image_id`` is the key. A row has all its images in their order; one of
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
        opened = [_open(source, name, path) for name, path in files.items()]
        if source.part is not None:
            _check_column(source, "part", source.columns.part, opened)
        rows: list[tuple[_File, int]] = []
        for file in opened:
            parts = [None] * len(file.table) if source.part is None else file.column(source.columns.part)
            rows += [(file, row) for row, part in enumerate(parts) if part == source.part]
        if not rows:
            known = Counter(str(part) for file in opened for part in file.column(source.columns.part))
            raise ValueError(
                f"part: benchmark {source.name!r} has no row whose {source.columns.part} is {source.part!r}; "
                f"its files hold {dict(known)}"
            )
        identities = _identify(source, opened, rows)  # of all rows, so that they do not depend on which are left out
        kept = list(range(len(rows)))
        if max_images is not None:
            counts = {file.name: count_per_row(file.table.data.column(file.images)) for file in opened if file.images}
            kept = [
                index
                for index, (file, row) in enumerate(rows)
                if not file.images or counts[file.name][row] <= max_images
            ]
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
        key, columns = self.keys[index], self.source.columns
        file, number = self._rows[index]
        try:
            row = file.table[number]
            cells = file.take_images(row)
            problem, answer = self._texts(row, len(cells))
            images = []
            for number, cell in enumerate(cells, start=1):
                try:
                    images.append(read_image(cell, file.directory, self.source.limits))
                except ValueError as error:
                    raise ValueError(f"image {number} of {len(cells)}: {error}") from error
            used = (columns.problem, columns.answer, columns.problem_type, columns.options, file.images or "")
            return Example(
                key=key,
                image=images[0] if images else None,
                problem=problem,
                answer=answer,
                problem_type=read_text(row, columns.problem_type),
                image_id=key,
                further_images=tuple(images[1:]),
                metadata=read_metadata(row, used, read_options(row.get(columns.options))),
            )
        except ValueError as error:
            raise UnusableItemError(key, str(error)) from error

    def texts(self, index: int) -> tuple[str, str]:
        """Question and gold answer of a row as ``__getitem__`` gives them; its images are not decoded.

        Raises:
            UnusableItemError: If the row cannot be used for another reason than the content of its images.
        """
        file, number = self._rows[index]
        try:
            row = file.table[number]
            return self._texts(row, len(file.take_images(row)))
        except ValueError as error:
            raise UnusableItemError(self.keys[index], str(error)) from error

    def _texts(self, row: dict[str, Any], images: int) -> tuple[str, str]:
        columns = self.source.columns
        written, options = read_text(row, columns.problem), read_options(row.get(columns.options))
        if (named := count_marks("\n".join((written, *options)))) > images:
            raise ValueError(f"the {columns.problem} names {named} images, the row has {images}")
        problem = write_problem(written, options, images, self.source.blank_problem or "")
        answer = read_text(row, columns.answer)
        for name, text in ((columns.problem, problem), (columns.answer, answer)):
            if not text:
                raise ValueError(f"no {name}: {row[name]!r}")
        return problem, answer


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
    if source.columns.images == "":
        return _File(name, origin.directory, None, table)
    try:
        images = find_column(names, source.columns.images)
        count_per_row(table.data.column(images))
    except ValueError as error:
        raise ValueError(f"columns.images: benchmark {source.name!r}: no images in {path}: {error}") from error
    return _File(name, origin.directory, images, table)


def _check_column(source: BenchmarkSource, argument: str, column: str, files: list[_File]) -> None:
    names = {file.name: file.table.column_names for file in files}
    if not all(column in found for found in names.values()):
        raise ValueError(
            f"columns.{argument}: benchmark {source.name!r} has no column {column!r} in all files: {names}"
        )


def _identify(source: BenchmarkSource, files: list[_File], rows: list[tuple[_File, int]]) -> list[str]:
    """The identity of every row: by the wanted column, or the first that identifies rows, or by file and row number."""
    wanted = source.columns.key
    if wanted is not None:
        _check_column(source, "key", wanted, files)
    for column in KEY_COLUMNS if wanted is None else (wanted,):
        if not all(column in file.table.column_names for file in files):
            continue
        values = {file.name: file.column(column) for file in files}
        found = [values[file.name][row] for file, row in rows]
        named = [isinstance(value, str | Number) and not isinstance(value, float) for value in found]
        identities = [str(value).strip() if name else "" for value, name in zip(found, named, strict=True)]
        if missing := identities.count(""):
            error = f"is empty, or neither text nor a whole number, in {missing} rows"
        elif repeated := [identity for identity, count in Counter(identities).items() if count > 1]:
            error = f"has {len(repeated)} values more than once: {repeated[:_SHOWN]}"
        else:
            return identities
        if wanted is not None:
            raise ValueError(f"columns.key: {column!r} of benchmark {source.name!r} {error}")
        logger.info("%s: %r does not identify rows, it %s", source.name, column, error)
    return [f"{file.name}:{row}" for file, row in rows]


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
    for number, group in enumerate(groups, start=1):
        if not group:
            raise ValueError(f"image {number} of {len(groups)} is missing")
    return [image for group in groups for image in group]
