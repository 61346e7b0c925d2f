"""Files of many images, parquet and tar, read a part at a time: a row group, or a run of members."""

from __future__ import annotations

import logging
import tarfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from visplay.data.files import is_hidden
from visplay.data.images.decoding import EXTENSIONS
from visplay.data.images.image_columns import find_column
from visplay.data.index_cache import read_index, write_index

logger = logging.getLogger(__name__)

_MEMBERS, _MEMBER_BYTES = 128, 2**24  # of a part of a tar file: as much as is read at once
_LARGE_BYTES = 2**29


class Part(NamedTuple):
    """What is read of a shard at once.

    Args:
        begin: Number of the row group, or where the run of members begins in the file.
        size_bytes: Of the row group, decompressed, or of the run.
        items: Rows, or images.
    """

    begin: int
    size_bytes: int
    items: int


@dataclass(frozen=True)
class Shard(ABC):
    """A file of many images.

    Args:
        name: What its images' keys begin with.
        path: Where it is, in ``files``.
        files: This machine's files, or those of the Hub.
        column: Column of the images, for a table; None for one of the usual names.
    """

    name: str
    path: str
    files: AbstractFileSystem
    column: str | None = None

    def parts(self) -> list[Part]:
        """Its parts in order; found once, and kept in the ``datasets`` cache until the file changes."""
        address, state = self.files.unstrip_protocol(self.path), self.files.ukey(self.path)
        index = "shards", type(self).__name__, address, state, self.column
        if (known := read_index(*index)) is not None:
            return [Part(*part) for part in known]
        with self.files.open(self.path, "rb") as file:
            found = self.find_parts(file)
        if largest := max((part.size_bytes for part in found if part.size_bytes > _LARGE_BYTES), default=0):
            message = "%s: a part of %d MiB is read at once; write the table again with row groups of about 100 images"
            logger.warning(message, self.path, largest // 2**20)
        write_index(found, *index)
        return found

    def read(self, part: Part) -> list[tuple[str, Any]]:
        """The items of a part, each with its name in the shard; a ValueError if they are not as many as there were."""
        with self.files.open(self.path, "rb") as file:
            items = self.read_part(file, part)
        if len(items) != part.items:
            raise ValueError(f"has changed: {len(items)} images are where {part.items} were")
        return items

    @abstractmethod
    def find_parts(self, file: BinaryIO) -> list[Part]:
        """The parts of the open file, in order."""

    @abstractmethod
    def read_part(self, file: BinaryIO, part: Part) -> list[tuple[str, Any]]:
        """Names and encoded images of a part of the open file."""


class ParquetShard(Shard):
    """A parquet file; an item is a row, named by its number, and its value the cell of the column of images."""

    def find_parts(self, file: BinaryIO) -> list[Part]:
        """The row groups, from the footer; a ValueError if there is no such column."""
        metadata = pq.read_metadata(file)
        find_column(metadata.schema.to_arrow_schema().names, self.column)
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        return [Part(number, group.total_byte_size, group.num_rows) for number, group in enumerate(groups)]

    def read_part(self, file: BinaryIO, part: Part) -> list[tuple[str, Any]]:
        """The cells of a row group."""
        table = pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=True)
        column = find_column(table.schema_arrow.names, self.column)
        first = sum(table.metadata.row_group(number).num_rows for number in range(part.begin))
        cells = table.read_row_group(part.begin, columns=[column], use_threads=False)[column].to_pylist()
        return [(str(row), cell) for row, cell in enumerate(cells, first)]


class TarShard(Shard):
    """A tar file, as WebDataset has them; an item is a member with an image's suffix, named as in the file.

    Nothing is extracted, so a name is no path of this machine; bytes of it that are not UTF-8 become escapes. What else
    a sample has (texts, JSON), links, and hidden names are left out.
    """

    def find_parts(self, file: BinaryIO) -> list[Part]:
        """Runs of members, from one pass over their headers; a ``ReadError`` if the file is cut off or damaged."""
        parts = []
        with tarfile.open(fileobj=file, mode="r:") as tar:
            begin = items = 0
            while member := tar.next():
                tar.members.clear()  # type: ignore[attr-defined]  # else they are kept, all of them
                items += _is_image(member)
                if items == _MEMBERS or tar.offset - begin >= _MEMBER_BYTES:
                    parts.append(Part(begin, tar.offset - begin, items))
                    begin, items = tar.offset, 0
            parts.append(Part(begin, tar.offset - begin, items))
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # which tarfile takes for the end
                raise tarfile.ReadError(f"cut off or damaged at byte {tar.offset}")
        return [part for part in parts if part.items]

    def read_part(self, file: BinaryIO, part: Part) -> list[tuple[str, Any]]:
        """The images of a run of members, which by itself is a tar file without its end."""
        file.seek(part.begin)
        data = file.read(part.size_bytes)
        with tarfile.open(fileobj=BytesIO(data), mode="r:") as tar:
            images = [member for member in tar if _is_image(member)]
        names = [member.name.encode(errors="surrogateescape").decode(errors="backslashreplace") for member in images]
        contents = [memoryview(data)[member.offset_data :][: member.size] for member in images]
        return list(zip(names, contents, strict=True))


def _is_image(member: tarfile.TarInfo) -> bool:
    path = PurePosixPath(member.name)
    return (
        member.isreg()
        and not member.issparse()
        and path.suffix.lower() in EXTENSIONS
        and not any(is_hidden(name) for name in path.parts)
    )
