"""The questions one iteration generated, as a parquet file with images.

It appears whole or not at all: it is written alongside, forced to the disk and then renamed. Writing and reading take
the memory of some images, however many there are.
"""

from __future__ import annotations

import hashlib
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from PIL.Image import Image
from torch.utils.data import Dataset

from visplay.data.files import replacing
from visplay.data.images.decoding import DecodeError, decode_image
from visplay.data.images.image_folder import UnusableItemError
from visplay.types import Example

# The first five are the columns of the released code.
FEATURES = datasets.Features(
    {
        "problem": datasets.Value("string"),
        "answer": datasets.Value("string"),
        "score": datasets.Value("float64"),
        "images": datasets.Image(),
        "problem_type": datasets.Value("string"),
        "votes": datasets.List({"name": datasets.Value("string"), "count": datasets.Value("int64")}),
        "image_id": datasets.Value("string"),
        "iteration": datasets.Value("int64"),
        "key": datasets.Value("string"),
        "label_accuracy": datasets.Value("float64"),
    }
)
_SCHEMA = FEATURES.arrow_schema
_DEFAULTS = {"label_accuracy": 1.0}  # of columns that files of earlier versions lack
_DAMAGED = "is not an undamaged parquet file of generated examples"
_ROWS_PER_GROUP = 32
_BYTES_PER_GROUP = 2**20
_BYTES_KEPT = 2**28


class GeneratedDataset(Dataset[Example]):
    """The examples of one parquet file, read one at a time; the file stays open, and may be removed meanwhile.

    Args:
        path: A file written by ``write_examples``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, lacks columns, has missing values, or its columns have other types.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = _open(self.path)
        rows = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._ends = list(accumulate(rows))
        for group in range(len(rows)):
            self._read(group)

    def __len__(self) -> int:
        """Number of examples."""
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Example:
        """Decode one example; an IndexError if there is none, an ``UnusableItemError`` if its image is broken."""
        index = range(len(self))[index]
        group = bisect_right(self._ends, index)
        table = self._read(group)
        (row,) = table.slice(table.num_rows - self._ends[group] + index, 1).to_pylist()
        return self._example(row, decode_image)

    def column(self, name: str) -> list[Any]:
        """One column of all rows; no image is decoded."""
        return self._file.read(columns=[name])[name].to_pylist()

    def read_all(self) -> list[Example]:
        """Decode all examples, an image that several of them share only once."""
        decode = cache(decode_image)
        rows = (row for group in range(len(self._ends)) for row in self._read(group).to_pylist())
        return [self._example(row, decode) for row in rows]

    def _read(self, group: int) -> pa.Table:
        """A row group, seen to be whole."""
        try:
            table = self._file.read_row_group(group, columns=_SCHEMA.names)
            for name in _DEFAULTS.keys() - {*table.column_names}:
                table = table.append_column(name, pa.array([_DEFAULTS[name]] * len(table)))
            table = table.select(_SCHEMA.names).cast(_SCHEMA)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"path: {self.path} {_DAMAGED}: {error}") from error
        if incomplete := [name for name in _SCHEMA.names if name != "images" and table[name].null_count]:
            raise ValueError(
                f"path: {self.path} has missing values in the columns {incomplete}; every row needs all of them"
            )
        return table

    def _example(self, row: dict[str, Any], decode: Callable[[bytes], Image]) -> Example:
        cell = row.pop("images")
        try:
            image = None if cell is None else decode(cell["bytes"])
        except DecodeError as error:
            reason = f"path: {self.path}: the image of {row['key']!r} does not decode: {error}"
            raise UnusableItemError(row["key"], reason) from error
        votes = tuple((vote["name"], vote["count"]) for vote in row.pop("votes"))
        return Example(image=image, votes=votes, **row)


def write_examples(
    path: str | Path, examples: Iterable[Example], encode: Callable[[Image], bytes] | None = None
) -> None:
    """Write the generated data set of one iteration; a file already there stays until the new one is complete.

    ``datasets`` loads the file with its images decoded. They are stored as PNG; an example without one has null.

    Args:
        path: The parquet file; its directory is created.
        examples: The rows, in order, taken one after the other; their images RGB. None at all gives a valid file
            without rows.
        encode: An image to PNG, called for each row when it is taken; None is a ``PngEncoder``.

    Raises:
        ValueError: If an image is not RGB, or an example has several.
    """
    encode = encode or PngEncoder()
    groups = _in_groups(_as_row(example, encode) for example in examples)
    # an image that several rows of a group share is stored once as long as the group's dictionary fits into one page
    write_rows(path, _SCHEMA, groups, dictionary_pagesize_limit=2**28)


def _in_groups(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Row groups: of one image if that is large, of several if they are small, as one is read to take a row."""
    group: list[dict[str, Any]] = []
    images: set[bytes] = set()
    for row in rows:
        image = row["images"]["bytes"] if row["images"] else b""
        too_large = image not in images and sum(map(len, images)) + len(image) > _BYTES_PER_GROUP
        if len(group) == _ROWS_PER_GROUP or (group and too_large):
            yield group
            group, images = [], set()
        group.append(row)
        images.add(image)
    if group:
        yield group


def in_chunks(examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
    """The examples in chunks of the size of a row group."""
    return (examples[start : start + _ROWS_PER_GROUP] for start in range(0, len(examples), _ROWS_PER_GROUP))


def write_rows(path: str | Path, schema: pa.Schema, chunks: Iterable[list[dict[str, Any]]], **options: Any) -> None:
    """Write a parquet file, a row group per chunk; a file already there stays until the new one is complete."""
    with (
        replacing(Path(path)) as file,
        pq.ParquetWriter(file, schema, write_page_checksum=True, **options) as writer,
    ):
        for rows in chunks:
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))


def read_examples(path: str | Path) -> list[Example]:
    """Read what ``write_examples`` wrote: equal values, equal pixels, the same order; see ``GeneratedDataset``.

    Examples that share an image share the object. ``GeneratedDataset`` reads the same file one image at a time.
    """
    return GeneratedDataset(path).read_all()


class PngEncoder:
    """Encodes images, one that comes again soon only once: so many bytes of the last ones are kept."""

    def __init__(self, bytes_kept: int = _BYTES_KEPT) -> None:
        self._left = bytes_kept
        self._encoded: OrderedDict[tuple[tuple[int, int], bytes], bytes] = OrderedDict()

    def __call__(self, image: Image) -> bytes:
        """PNG of an image."""
        identity = image.size, hashlib.sha256(image.tobytes()).digest()
        if identity not in self._encoded:
            bare = image.copy()
            bare.info = {}
            buffer = BytesIO()
            bare.save(buffer, "PNG", compress_type=zlib.Z_RLE)  # as fast as level 1, and smaller
            self._encoded[identity] = buffer.getvalue()
            self._left -= len(self._encoded[identity])
            while self._left < 0 and len(self._encoded) > 1:
                self._left += len(self._encoded.popitem(last=False)[1])
        self._encoded.move_to_end(identity)
        return self._encoded[identity]


def _as_row(example: Example, encode: Callable[[Image], bytes]) -> dict[str, Any]:
    if example.further_images:
        raise ValueError(f"examples: {example.key!r} has {len(example.images)} images; a row here holds one")
    if example.image is not None and example.image.mode != "RGB":
        raise ValueError(f"examples: the image of {example.key!r} must be RGB, got {example.image.mode}")
    same = ("problem", "answer", "score", "problem_type", "image_id", "iteration", "key", "label_accuracy")
    return {name: getattr(example, name) for name in same} | {
        "images": None if example.image is None else {"bytes": encode(example.image), "path": None},
        "votes": [{"name": name, "count": count} for name, count in example.votes],
    }


def _open(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(pa.OSFile(str(path)), page_checksum_verification=True)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"path: {path} {_DAMAGED}: {error}") from error
    if missing := [name for name in _SCHEMA.names if name not in {*file.schema_arrow.names, *_DEFAULTS}]:
        raise ValueError(f"path: {path} lacks the columns {missing}; it has {file.schema_arrow.names}")
    return file
