"""Unlabeled images and labelled questions from a table; a row keeps its number in the source, whatever its neighbours.

Nothing is decoded before an item is asked for. A bad item raises ``UnusableItemError``; no other item moves.
"""

from __future__ import annotations

import difflib
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL.Image import Image
from torch.utils.data import Dataset

from visplay.data.images.decoding import EXTENSIONS, ImageLimits
from visplay.data.images.image_columns import count_per_row, encoded_image, find_column, read_image, split_images
from visplay.data.images.image_folder import ImageFolder, UnusableItemError
from visplay.data.question_text import BARE_MARK, read_text, unwrap_answer
from visplay.data.sources import Origin, find_origin, is_saved, is_table, list_files, open_origin
from visplay.types import Example, UnlabeledImage

logger = logging.getLogger(__name__)

LICENCES = ("license", "licence", "license_url", "rights", "copyright")
ORIGINS = ("attribution", "credit", "author", "artist", "creator", "photographer", "source", "source_url", "url")
DESCRIBING = (*LICENCES, *ORIGINS)
"""Columns of a table that say under which licence an image is, and whose it is, the first ones first."""

_SHOWN_KEYS = 5
_SHOWN_CHARACTERS = 80


@dataclass(frozen=True)
class Columns:
    """Which column of a labelled table holds what.

    Args:
        problem: The question, text.
        answer: The gold answer; numbers and booleans become text, and text is taken out of tags, boxes and the like.
        images: The image, in any shape that ``read_images`` takes; None for the first of images, image, img, picture,
            pictures; empty where the questions have none.
        key: Identity of the row, different in every row; None to take the name of the source and the row number.
        problem_type: Kind of the question. A table without a column of the default name has no kinds; so it is with
            None.
    """

    problem: str = "problem"
    answer: str = "answer"
    images: str | None = None
    key: str | None = None
    problem_type: str | None = "problem_type"


class ImageTable(Dataset[UnlabeledImage]):
    """Unlabeled images of a table, one item per image.

    An item's key is ``name:row``, or ``name:row#i`` in a row with several images: the name of the source (stem of the
    file, name of the directory, name on the Hub; with ``@split`` unless that is ``train``), the number of the row in it
    and of the image in the row, from 0. Rows without an image are no items, and their numbers stay unused.

    Args:
        source: See ``open_table``, with ``split`` and ``revision``.
        split: Name of a split.
        revision: Branch, tag or commit on the Hub.
        column: Column of the images; None for the first of images, image, img, picture, pictures.
        limits: What an image must keep to, judged by its header before it is decoded.

    Raises:
        OSError: If there is no such source.
        ValueError: If the source is no table, or has no such column or no image.
    """

    def __init__(
        self,
        source: str | Path,
        split: str | None = "train",
        revision: str | None = None,
        column: str | None = None,
        limits: ImageLimits = ImageLimits(),  # noqa: B008 (frozen)
    ) -> None:
        self.limits = limits
        origin, table, self._name = _open(source, split, revision)
        self._directory, self._from_hub = origin.directory, origin.kind == "hub"
        self.column, self._counts = _find_images(origin, table, column, "column")
        self._table = table.select_columns([self.column])
        self._described = table.select_columns([name for name in table.column_names if name.lower() in DESCRIBING])
        self._rows = np.repeat(np.arange(len(table)), self._counts)
        self._firsts = np.cumsum(self._counts) - self._counts

    def __len__(self) -> int:
        """Number of images, good or bad."""
        return len(self._rows)

    def __getitem__(self, index: int) -> UnlabeledImage:
        """Decode one image; an IndexError if there is none, an ``UnusableItemError`` if it cannot be used."""
        index = range(len(self))[index]
        row = int(self._rows[index])
        number = int(index - self._firsts[row])
        key = f"{self._name}:{row}#{number}" if self._counts[row] > 1 else f"{self._name}:{row}"
        try:
            image = split_images(self._table[row][self.column])[number]
            return UnlabeledImage(key, read_image(image, self._directory, self.limits, from_hub=self._from_hub))
        except ValueError as error:
            raise UnusableItemError(key, str(error)) from error

    def encoded(self, key: str) -> bytes:
        """The bytes of an image by its key."""
        row, number = self._find(key)
        return encoded_image(split_images(self._table[row][self.column])[number], self._directory)

    def described(self, key: str) -> dict[str, str]:
        """What the table says of an image's licence and origin, by column in lower case, see ``DESCRIBING``."""
        row, _ = self._find(key)
        cells = self._described[row] if self._described.column_names else {}
        return {name.lower(): str(value) for name, value in cells.items() if value not in (None, "")}

    def _find(self, key: str) -> tuple[int, int]:
        """Row, and number in it, of an image."""
        row, _, number = key.rpartition(":")[2].partition("#")
        return int(row), int(number or 0)


class LabelledTable(Dataset[Example]):
    """Questions with gold answers, one image each or none; item i is row i of the table.

    The key is ``name:row`` as in ``ImageTable``, or what the key column says; ``image_id`` is always ``name:row``. The
    score is that of a column ``score``, else 1.0. Placeholders ``<image>`` are taken out of the question, and the
    answer out of what wraps it, see ``unwrap_answer``.

    Args:
        source: See ``open_table``, with ``split`` and ``revision``.
        split: Name of a split.
        revision: Branch, tag or commit on the Hub.
        columns: Which column holds what.
        limits: What an image must keep to, judged by its header before it is decoded.

    Attributes:
        unwrapped: Number of rows whose answer is wrapped in something.

    Raises:
        OSError: If there is no such source.
        ValueError: If the source is no table or lacks a column, or a key is missing or not unique.
    """

    def __init__(
        self,
        source: str | Path,
        split: str | None = "train",
        revision: str | None = None,
        columns: Columns = Columns(),  # noqa: B008 (frozen)
        limits: ImageLimits = ImageLimits(),  # noqa: B008 (frozen)
    ) -> None:
        self.columns = columns
        self.limits = limits
        origin, table, self._name = _open(source, split, revision)
        self._directory, self._from_hub = origin.directory, origin.kind == "hub"
        self._images = None
        if columns.images != "":
            self._images, _ = _find_images(origin, table, columns.images, "columns.images")
        names = table.column_names
        wanted = {"problem": columns.problem, "answer": columns.answer, "key": columns.key}
        if columns.problem_type != Columns.problem_type:
            wanted["problem_type"] = columns.problem_type
        for argument, name in wanted.items():
            if name is not None and name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"columns.{argument}: {origin.path!r} has no column {name!r}, only {names}{hint}")
        self._keys = None if columns.key is None else _read_keys(origin, table, columns.key)
        used = {columns.problem, columns.answer, columns.problem_type, self._images, "score"}
        self._table = table.select_columns([name for name in names if name in used])
        self.unwrapped = _count_wrapped(origin, table, columns.answer)

    def __len__(self) -> int:
        """Number of rows, good or bad."""
        return len(self._table)

    def key(self, index: int) -> str:
        """Identity of a row, good or bad."""
        row = range(len(self))[index]
        return f"{self._name}:{row}" if self._keys is None else self._keys[row]

    def __getitem__(self, index: int) -> Example:
        """Read one row.

        Raises:
            IndexError: If there is no such index.
            UnusableItemError: If the row has no question, no answer, no image or several, or its image does not
                decode or breaks the limits.
        """
        key, columns = self.key(index), self.columns
        number = range(len(self))[index]
        try:
            row = self._table[number]  # text that is not UTF-8 is found here
            problem = BARE_MARK.sub("", read_text(row, columns.problem)).strip()
            answer = unwrap_answer(read_text(row, columns.answer))
            for name, text in ((columns.problem, problem), (columns.answer, answer)):
                if not text:
                    raise ValueError(f"no {name}: {row[name]!r}")
            image = None if self._images is None else self._read_image(split_images(row[self._images]))
            score = row.get("score")
            scored = isinstance(score, int | float) and math.isfinite(score)
            return Example(
                key=key,
                image=image,
                problem=problem,
                answer=answer,
                problem_type=read_text(row, columns.problem_type),
                score=float(score) if scored else 1.0,
                image_id=f"{self._name}:{number}",
            )
        except ValueError as error:
            raise UnusableItemError(key, str(error)) from error

    def _read_image(self, images: Sequence[Any]) -> Image:
        if len(images) != 1:
            raise ValueError(f"{len(images)} images; a row must have one")
        return read_image(images[0], self._directory, self.limits, from_hub=self._from_hub)


def open_images(
    source: str | Path,
    split: str | None = "train",
    revision: str | None = None,
    column: str | None = None,
    limits: ImageLimits = ImageLimits(),  # noqa: B008 (frozen)
) -> ImageFolder | ImageTable:
    """Open unlabeled images: a directory of image files, searched recursively, or else a table, see ``ImageTable``.

    Raises:
        OSError: If there is no such source.
        ValueError: If a directory holds image files and tables as well, or nothing usable; see also ``ImageTable``.
    """
    directory = Path(source)
    if not directory.is_dir() or is_saved(directory):
        return ImageTable(source, split, revision, column, limits)
    files = list_files(directory)
    table = next(filter(is_table, files), None)
    image = next((file for file in files if Path(file).suffix.lower() in EXTENSIONS), None)
    if table is not None and image is not None:
        raise ValueError(
            f"source: the directory {str(directory)!r} holds image files ({image!r}) and tables ({table!r}); "
            "give a directory of one of them, or a pattern such as directory/*.parquet"
        )
    if table is not None:
        return ImageTable(source, split, revision, column, limits)
    return ImageFolder(directory, limits)


def _open(source: str | Path, split: str | None, revision: str | None) -> tuple[Origin, datasets.Dataset, str]:
    """Origin and table of a source, and what its keys begin with."""
    origin = find_origin(source, split)
    table = open_origin(origin, revision)
    return origin, table, origin.name if table.split == "train" else f"{origin.name}@{table.split}"


def _find_images(origin: Origin, table: datasets.Dataset, column: str | None, argument: str) -> tuple[str, np.ndarray]:
    """The column of images, and how many of them each row has."""
    try:
        name = find_column(table.column_names, column)
    except ValueError as error:
        raise ValueError(f"{argument}: no images in {origin.path!r}: {error}") from error
    try:
        counts = count_per_row(table.data.column(name))
    except ValueError as error:
        raise ValueError(f"source: {origin.path!r}, column {name!r}: {error}") from error
    if not counts.any():
        raise ValueError(f"source: {origin.path!r}, column {name!r} must hold at least one image, got none")
    return name, counts


def _count_wrapped(origin: Origin, table: datasets.Dataset, column: str) -> int:
    """How many answers are wrapped in something; it is said once, with an example."""
    texts = [value.strip() for value in table.data.column(column).to_pylist() if isinstance(value, str)]
    wrapped = [text for text in texts if unwrap_answer(text) != text]
    if wrapped:
        example = f"{wrapped[0][-_SHOWN_CHARACTERS:]!r} is {unwrap_answer(wrapped[0])!r}"
        message = "%s: %d of %d answers are wrapped, and what is within is taken: %s"
        logger.info(message, origin.path, len(wrapped), len(table), example)
    return len(wrapped)


def _read_keys(origin: Origin, table: datasets.Dataset, column: str) -> list[str]:
    values = table.data.column(column).to_pylist()
    keys = ["" if value is None else str(value).strip() for value in values]
    if missing := [row for row, key in enumerate(keys) if not key]:
        raise ValueError(f"columns.key: {column!r} of {origin.path!r} is empty in the rows {missing[:_SHOWN_KEYS]}")
    if repeated := [key for key, count in Counter(keys).items() if count > 1]:
        raise ValueError(
            f"columns.key: {column!r} of {origin.path!r} must differ in every row; {len(repeated)} keys are repeated: "
            f"{repeated[:_SHOWN_KEYS]}"
        )
    return keys
