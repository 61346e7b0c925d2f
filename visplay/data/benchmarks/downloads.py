"""Data sets of the Hub on this disk: downloaded at one commit, on record with the SHA-256 of every file.

Nothing here but the check of hashes is called by training or validation; ``visplay prepare`` alone asks the Hub.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Protocol

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HTTPError

from visplay.data.files import replacing, sha256

logger = logging.getLogger(__name__)

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


@dataclass(frozen=True)
class Snapshot:
    """The files of a data set on the Hub at one commit.

    Args:
        commit: The commit.
        files: Paths of its files, with their SHA-256 where the Hub has it on record and None elsewhere.
    """

    commit: str
    files: Mapping[str, str | None]


class Hub(Protocol):
    """Where data sets are downloaded from."""

    def look_up(self, repo: str, revision: str) -> Snapshot:
        """The files of the data set at a branch, tag or commit."""

    def fetch(self, repo: str, commit: str, file: str, directory: Path) -> Path:
        """Download one file below a directory, and return where it is."""


class HuggingFaceHub:
    """The Hugging Face Hub; address and key come from the environment.

    Files are fetched one by one, not with ``snapshot_download``, so that each is in place only after its hash was
    compared, and what is complete is not lost when another one fails.
    """

    def look_up(self, repo: str, revision: str) -> Snapshot:
        """The files of the data set at a branch, tag or commit; an OSError if the Hub fails."""
        try:
            info = HfApi().dataset_info(repo, revision=revision, files_metadata=True)
        except HTTPError as error:
            raise OSError(f"repo: {repo!r} at {revision!r} cannot be looked up on the Hub: {error}") from error
        files = {file.rfilename: file.lfs.sha256 if file.lfs else None for file in info.siblings or []}
        return Snapshot(str(info.sha), files)

    def fetch(self, repo: str, commit: str, file: str, directory: Path) -> Path:
        """Download one file below a directory, and return where it is; an OSError if the Hub fails."""
        try:
            return Path(hf_hub_download(repo, file, repo_type="dataset", revision=commit, local_dir=directory))
        except HTTPError as error:
            raise OSError(f"files: {file!r} of {repo!r} at {commit} cannot be downloaded: {error}") from error


def download(
    hub: Hub, directory: Path, repo: str, revision: str, patterns: Sequence[str], update: bool = False
) -> None:
    """Bring the files of a data set here, at the commit on record, or else at the one that the revision is now.

    A file that is here already is checked, not downloaded again. A file is put in place after its hash was compared
    with the one on record here, or else at the Hub; all of them are put on record when the last one is in place.

    Args:
        hub: Where to download from; not asked where everything is here.
        directory: Files go to ``directory/owner/name``, the record into ``directory``.
        repo: Data set, ``owner/name``.
        revision: Branch, tag or commit. A revision other than the one on record is looked up anew, and what is here of
            the former is replaced.
        patterns: Files with a path that matches one of them are wanted.
        update: Look the revision up anew in any case, and replace what has changed.

    Raises:
        FileNotFoundError: If no file matches a pattern.
        OSError: If the Hub fails.
        ValueError: If a file has another hash than the one on record, or its path leads out of the directory.
    """
    record = read_lock(directory)
    entry = record.get(repo)
    if entry is not None and (update or revision not in (entry.revision, entry.commit)):
        entry = None
    replaces = entry is None
    wanted: Mapping[str, str | None]
    if entry is not None and set(patterns) <= set(entry.patterns):
        wanted = entry.files
    else:
        snapshot = hub.look_up(repo, revision if entry is None else entry.commit)
        entry = entry or Locked(revision, snapshot.commit)
        wanted = snapshot.files
        for pattern in patterns:
            if not match_files(wanted, [pattern]):
                raise FileNotFoundError(f"files: no file of {repo!r} matches {pattern!r}; it has {sorted(wanted)}")
    hashes = dict(entry.files)
    for file in match_files(wanted, patterns):
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise ValueError(f"files: {file!r} of {repo!r} leads out of its directory; it was not downloaded")
        expected, target = entry.files.get(file, wanted[file]), directory / repo / file
        if target.is_file() and expected is not None and not (replaces and sha256(target) != expected):
            check_hash(target, expected)
            hashes[file] = expected
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".incoming-") as incoming:
            fetched = hub.fetch(repo, entry.commit, file, Path(incoming))
            hashes[file] = sha256(fetched)
            if expected not in (None, hashes[file]):
                raise ValueError(
                    f"files: {file!r} of {repo!r} at {entry.commit} with the SHA-256 {expected} was expected, what "
                    f"came has the SHA-256 {hashes[file]}; it was not kept"
                )
            os.replace(fetched, target)
        logger.info("%s: %s at %s, SHA-256 %s", repo, file, entry.commit, hashes[file])
    entries = record | {repo: Locked(entry.revision, entry.commit, hashes, sorted({*entry.patterns, *patterns}))}
    text = json.dumps({name: asdict(locked) for name, locked in entries.items()}, indent=2, sort_keys=True)
    with replacing(directory / LOCK_NAME) as lock:
        lock.write(f"{text}\n".encode())


def match_files(files: Sequence[str] | Mapping[str, object], patterns: Sequence[str]) -> list[str]:
    """The paths that match one of the patterns, sorted; ``*`` matches across directories.

    Example:
        >>> match_files(["data/test-0.parquet", "README.md"], ["*test*.parquet"])
        ['data/test-0.parquet']
    """
    return sorted(file for file in files if any(fnmatchcase(file, pattern) for pattern in patterns))


def read_lock(directory: Path) -> dict[str, Locked]:
    """What is on record in a directory, by name of the data set; nothing if there is no record."""
    path = directory / LOCK_NAME
    try:
        return {repo: Locked(**entry) for repo, entry in json.loads(path.read_bytes()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"directory: {path} is not a record of downloads ({error}); run `visplay prepare` anew"
        ) from error


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
