"""Which commit each downloaded data set is at, and the hash of every file: on record, and checked against."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

from visplay.data.files import replacing, sha256

LOCK_NAME = "benchmarks.lock.json"


@dataclass(frozen=True)
class Locked:
    """One data set of the Hub as it was downloaded.

    Args:
        revision: What was asked for: branch, tag or commit.
        commit: What that was when it was first downloaded.
        files: SHA-256 of each file by its path in the data set, 64 hexadecimal digits.
        patterns: What was asked for: every file of the data set that matches one of them is in ``files``.
    """

    revision: str
    commit: str
    files: dict[str, str] = field(default_factory=dict)
    patterns: list[str] = field(default_factory=list)


def read_lock(directory: Path) -> dict[str, Locked]:
    """What is on record in a directory, by name of the data set; nothing if there is no record.

    Raises:
        ValueError: If the record cannot be read.
    """
    path = directory / LOCK_NAME
    try:
        entries = json.loads(path.read_bytes())
        return {repo: Locked(**entry) for repo, entry in entries.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"directory: {path} is not a record of downloads ({error}); run `visplay prepare` anew"
        ) from error


def write_lock(directory: Path, entries: dict[str, Locked]) -> None:
    """Put the record in place of an earlier one."""
    text = json.dumps({repo: asdict(entry) for repo, entry in entries.items()}, indent=2, sort_keys=True)
    with replacing(directory / LOCK_NAME) as file:
        file.write(f"{text}\n".encode())


def check_hash(path: Path, expected: str) -> None:
    """Reject a file whose content is not the one on record; one that did not change is hashed once per process.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If its hash is another.
    """
    status = path.stat()
    found = _hash(path, status.st_size, status.st_mtime_ns, status.st_ino)
    if found != expected:
        raise ValueError(
            f"files: {path} has the SHA-256 {found}, on record is {expected}; it is damaged or another version: "
            "delete it and run `visplay prepare`, with --update to accept a newer one"
        )


@cache
def _hash(path: Path, _size: int, _mtime: int, _inode: int) -> str:
    return sha256(path)
