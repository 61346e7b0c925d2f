"""The questions one iteration generated, as a parquet file with images, and the manifest of finished stages.

Both files appear whole or not at all: they are written alongside, forced to the disk and then renamed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from PIL.Image import Image
from torch.utils.data import Dataset

from visplay.data.decoding import DecodeError, decode_image
from visplay.data.files import replacing, sha256
from visplay.data.image_folder import UnusableItemError
from visplay.types import Example

logger = logging.getLogger(__name__)

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
    }
)
_SCHEMA = FEATURES.arrow_schema
_ROWS_PER_GROUP = 32


class GeneratedDataset(Dataset[Example]):
    """The examples of one parquet file; their images stay encoded until an example is asked for.

    Args:
        path: A file written by ``write_examples``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, lacks columns, has missing values, or its columns have other types.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._table = _read_table(self.path)

    def __len__(self) -> int:
        """Number of examples."""
        return self._table.num_rows

    def __getitem__(self, index: int) -> Example:
        """Decode one example; an IndexError if there is none, an ``UnusableItemError`` if its image is broken."""
        index = range(len(self))[index]
        return self._example(self._table.slice(index, 1).to_pylist()[0], decode_image)

    def read_all(self) -> list[Example]:
        """Decode all examples, an image that several of them share only once."""
        decode = cache(decode_image)
        rows = (row for batch in self._table.to_batches(_ROWS_PER_GROUP) for row in batch.to_pylist())
        return [self._example(row, decode) for row in rows]

    def _example(self, row: dict[str, Any], decode: Callable[[bytes], Image]) -> Example:
        try:
            image = decode(row.pop("images")["bytes"])
        except DecodeError as error:
            reason = f"path: {self.path}: the image of {row['key']!r} does not decode: {error}"
            raise UnusableItemError(row["key"], reason) from error
        votes = tuple((vote["name"], vote["count"]) for vote in row.pop("votes"))
        return Example(image=image, votes=votes, **row)


def write_examples(path: str | Path, examples: Sequence[Example]) -> None:
    """Write the generated data set of one iteration; a file already there stays until the new one is complete.

    ``datasets`` loads the file with its images decoded. They are stored as PNG, each distinct one encoded once.

    Args:
        path: The parquet file; its directory is created.
        examples: The rows, in order; their images RGB. None at all gives a valid file without rows.

    Raises:
        ValueError: If an image is not RGB, or an example has several.
    """
    encode = PngEncoder()
    chunks = ([_as_row(example, encode) for example in chunk] for chunk in in_chunks(examples))
    # an image that several rows of a group share is stored once as long as the group's dictionary fits into one page
    write_rows(path, _SCHEMA, chunks, dictionary_pagesize_limit=2**28)


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


class Manifest:
    """The finished stages of a run, each with the file it made, in one JSON file.

    A stage whose file is on record and unchanged need not run again. The manifest is read anew at every call; one
    process of a run may record, all may read.

    Args:
        path: The JSON file. Files in its directory are recorded relative to it, so a run directory can be moved.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def get(self, stage: str) -> dict[str, Any] | None:
        """Return what is on record, with the path made usable, or None if the stage must run (again).

        A file that is gone or has another hash than the one on record is logged as a warning.

        Raises:
            ValueError: If the manifest itself cannot be read.
        """
        record = self._read().get(stage)
        if record is None:
            return None
        file = self.path.parent / record["path"]
        if not file.is_file():
            logger.warning("%s: the file of stage %r is gone: %s", self.path, stage, file)
            return None
        if sha256(file) != record["sha256"]:
            logger.warning("%s: the file of stage %r has changed since it was recorded: %s", self.path, stage, file)
            return None
        return {**record, "path": str(file)}

    def files(self) -> dict[str, Path]:
        """The files on record that are there, by stage."""
        found = {stage: self.path.parent / record["path"] for stage, record in self._read().items()}
        return {stage: file for stage, file in found.items() if file.is_file()}

    def record(self, stage: str, file: str | Path, **facts: Any) -> dict[str, Any]:
        """Record a finished stage in place of an earlier record of it.

        Args:
            stage: Its name.
            file: The file it made.
            facts: JSON values to keep with it, for example ``rows=118``; not ``path`` or ``sha256``.

        Returns:
            The record, as ``get`` returns it.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If a fact is called ``path`` or ``sha256``, or the manifest cannot be read.
        """
        if taken := sorted({"path", "sha256"} & facts.keys()):
            raise ValueError(f"facts: {taken} are the manifest's own; give them other names")
        made, directory = Path(file).resolve(), self.path.parent.resolve()
        portable = made.relative_to(directory) if made.is_relative_to(directory) else made
        record = {"path": portable.as_posix(), "sha256": sha256(made), **facts}
        text = json.dumps({**self._read(), stage: record}, indent=2, sort_keys=True)
        with replacing(self.path) as manifest:
            manifest.write(f"{text}\n".encode())
        return {**record, "path": str(self.path.parent / record["path"])}

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            stages = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise ValueError(f"path: {self.path} is not JSON ({error}); delete it to run every stage again") from error
        if not isinstance(stages, dict) or not all(
            isinstance(record, dict) and {"path", "sha256"} <= record.keys() for record in stages.values()
        ):
            raise ValueError(f"path: {self.path} is not a manifest of stages; delete it to run every stage again")
        return stages


class PngEncoder:
    """Encodes each distinct image once."""

    def __init__(self) -> None:
        self._encoded: dict[tuple[tuple[int, int], bytes], bytes] = {}

    def __call__(self, image: Image) -> bytes:
        """PNG of an image."""
        identity = image.size, hashlib.sha256(image.tobytes()).digest()
        if identity not in self._encoded:
            bare = image.copy()
            bare.info = {}
            buffer = BytesIO()
            bare.save(buffer, "PNG", compress_type=zlib.Z_RLE)  # as fast as level 1, and smaller
            self._encoded[identity] = buffer.getvalue()
        return self._encoded[identity]


def _as_row(example: Example, encode: Callable[[Image], bytes]) -> dict[str, Any]:
    if example.further_images:
        raise ValueError(f"examples: {example.key!r} has {len(example.images)} images; a row here holds one")
    if example.image.mode != "RGB":
        raise ValueError(f"examples: the image of {example.key!r} must be RGB, got {example.image.mode}")
    same = ("problem", "answer", "score", "problem_type", "image_id", "iteration", "key")
    return {name: getattr(example, name) for name in same} | {
        "images": {"bytes": encode(example.image), "path": None},
        "votes": [{"name": name, "count": count} for name, count in example.votes],
    }


def _read_table(path: Path) -> pa.Table:
    with pa.OSFile(str(path)) as source:
        try:
            file = pq.ParquetFile(source, page_checksum_verification=True)
            if missing := [name for name in _SCHEMA.names if name not in file.schema_arrow.names]:
                raise ValueError(f"path: {path} lacks the columns {missing}; it has {file.schema_arrow.names}")
            table = file.read(columns=_SCHEMA.names).select(_SCHEMA.names).cast(_SCHEMA)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"path: {path} is not an undamaged parquet file of generated examples: {error}") from error
    if incomplete := [name for name in _SCHEMA.names if table[name].null_count]:
        raise ValueError(f"path: {path} has missing values in the columns {incomplete}; every row needs all of them")
    return table
