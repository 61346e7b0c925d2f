"""Files that are whole or not there at all, and what of a directory nobody means."""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

_KEPT_BY_SYSTEMS = frozenset(
    {
        *("@eadir", "@recycle", "#recycle", "@tmp", "#snapshot", "$recycle.bin", "__macosx", "lost+found"),
        *("thumbs.db", "thumbs", "_thumbs", "thumbnail", "thumbnails"),
    }
)
_SHOWN_HIDDEN = 5


def is_hidden(name: str) -> bool:
    """Whether nobody means a file or directory of this name who gives the one that it is in.

    So it is with hidden ones, and with those that systems keep: thumbnails, and what was deleted.

    Example:
        >>> [name for name in (".Trash-1000", "@eaDir", "Thumbnails", "2024", "a.jpg") if is_hidden(name)]
        ['.Trash-1000', '@eaDir', 'Thumbnails']
    """
    return name.startswith(".") or name.lower() in _KEPT_BY_SYSTEMS


class LeftOut:
    """What a directory holds and nobody reads: files by their suffix, and what is hidden."""

    def __init__(self) -> None:
        self.suffixes: Counter[str] = Counter()
        self.hidden: list[str] = []

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.suffixes or self.hidden)

    def __str__(self) -> str:
        """In words: ``300 .heic, 2 without a suffix, 1 hidden or of the system ('.Trash-1000')``."""
        found = [f"{count} {suffix or 'without a suffix'}" for suffix, count in self.suffixes.most_common()]
        if self.hidden:
            shown = [*map(repr, self.hidden[:_SHOWN_HIDDEN]), *["..."][: len(self.hidden) > _SHOWN_HIDDEN]]
            found.append(f"{len(self.hidden)} hidden or of the system ({', '.join(shown)})")
        return ", ".join(found)

    def choose(self, names: Iterable[str], directory: str = "") -> list[str]:
        """The names that are not hidden; the others are noted as what is left out of a directory."""
        kept = []
        for name in names:
            if is_hidden(name):
                self.hidden.append(os.path.join(directory, name))
            else:
                kept.append(name)
        return kept

    def count(self, names: Iterable[str]) -> None:
        """Note files by their suffix."""
        self.suffixes.update(os.path.splitext(name)[1].lower() for name in names)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have an error of the system in the block name the file, as one of a write or of a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of ``path`` when the block ends, complete and forced to the disk.

    An error in the block leaves what was there before, and nothing else. The directory is created.

    Raises:
        OSError: The disk does not take it; the error names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with naming(path), temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    force_to_disk(path.parent)


def json_line(record: dict[str, Any]) -> bytes:
    """A line of JSON in UTF-8; a lone surrogate, which UTF-8 cannot encode, is written as its escape."""
    return json.dumps(record, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"


def write_whole(place: Path, write: Callable[[Path], None]) -> None:
    """Write a directory that is there whole or not at all; one that was there is replaced.

    Args:
        place: The directory.
        write: Writes its content into another directory, which is there.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    new, old = (place.with_name(f".{place.name}.{os.getpid()}.{kind}") for kind in ("new", "old"))
    for each in (new, old):
        shutil.rmtree(each, ignore_errors=True)
    new.mkdir()
    try:
        write(new)
        for path in new.rglob("*"):
            force_to_disk(path)
        if place.exists():
            place.rename(old)
        new.rename(place)
        force_to_disk(place.parent)
    finally:
        for each in (new, old):
            shutil.rmtree(each, ignore_errors=True)


def remove_unfinished(directory: Path) -> None:
    """Remove what killed processes left of ``replacing``, in a directory and below it; none may be writing there."""
    for path in directory.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def json_number(value: float) -> float | str:
    """A number for JSON, which has none that are not finite."""
    return value if math.isfinite(value) else str(value)


def sha256(path: Path) -> str:
    """Hash a file's content, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def force_to_disk(path: Path) -> None:
    """Have what was written to a file, or the names in a directory, outlast a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checksum_file(path: Path) -> Path:
    """Where the SHA-256 of a file is kept, beside it, as ``sha256sum`` writes and checks it."""
    return path.with_name(f"{path.name}.sha256")
