"""Data sets of the Hub on this disk: downloaded at one commit, every file checked by its hash.

Nothing here is called by training or validation; ``visplay prepare`` alone asks the Hub.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HTTPError

from visplay.data.benchmarks.lock import Locked, check_hash, read_lock, write_lock
from visplay.data.files import sha256

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """What a data set on the Hub holds at one commit.

    Args:
        commit: The commit.
        files: Paths of its files, with their SHA-256 where the Hub has it on record and None elsewhere.
    """

    commit: str
    files: Mapping[str, str | None]


@dataclass(frozen=True)
class _Wanted:
    """A file of a data set at a commit, with its hash where that is known."""

    repo: str
    commit: str
    file: str
    sha256: str | None

    def __str__(self) -> str:
        return f"{self.file!r} of {self.repo!r} at {self.commit} with the SHA-256 {self.sha256}"


class Hub(Protocol):
    """Where data sets are downloaded from."""

    def look_up(self, repo: str, revision: str) -> Snapshot:
        """What the data set holds at a branch, tag or commit."""

    def fetch(self, repo: str, commit: str, file: str, directory: Path) -> Path:
        """Download one file below a directory, and return where it is."""


class HuggingFaceHub:
    """The Hugging Face Hub; address and key come from the environment."""

    def look_up(self, repo: str, revision: str) -> Snapshot:
        """What the data set holds at a branch, tag or commit.

        Raises:
            OSError: If the Hub cannot be reached or has no such data set or revision.
        """
        try:
            info = HfApi().dataset_info(repo, revision=revision, files_metadata=True)
        except HTTPError as error:
            raise OSError(f"repo: {repo!r} at {revision!r} cannot be looked up on the Hub: {error}") from error
        files = {file.rfilename: file.lfs.sha256 if file.lfs else None for file in info.siblings or []}
        return Snapshot(str(info.sha), files)

    def fetch(self, repo: str, commit: str, file: str, directory: Path) -> Path:
        """Download one file below a directory, and return where it is.

        Raises:
            OSError: If the Hub cannot be reached or has no such file.
        """
        try:
            return Path(hf_hub_download(repo, file, repo_type="dataset", revision=commit, local_dir=directory))
        except HTTPError as error:
            raise OSError(f"files: {file!r} of {repo!r} at {commit} cannot be downloaded: {error}") from error


def download(
    hub: Hub, directory: Path, repo: str, revision: str, patterns: Sequence[str], update: bool = False
) -> list[Path]:
    """Bring the files of a data set here, at the commit on record, or else at the one that the revision is now.

    A file that is here already is checked, not downloaded again. A file is put in its place after its hash was compared
    with the one on record here, or else at the Hub; all of them are put on record when the last one is in its place.

    Args:
        hub: Where to download from; not asked where everything is here.
        directory: Files go to ``directory/owner/name``, the record into ``directory``.
        repo: Data set, ``owner/name``.
        revision: Branch, tag or commit. A revision other than the one on record is looked up anew, and what is here of
            the former is replaced.
        patterns: Files with a path that matches one of them are wanted.
        update: Look the revision up anew in any case, and replace what has changed.

    Returns:
        The files, sorted.

    Raises:
        FileNotFoundError: If no file matches a pattern.
        OSError: If the Hub fails.
        ValueError: If a file has another hash than the one on record.
    """
    record = read_lock(directory)
    entry = record.get(repo)
    if entry is not None and (update or revision not in (entry.revision, entry.commit)):
        entry = None
    replaces = entry is None
    if entry is None or not set(patterns) <= set(entry.patterns):
        snapshot = hub.look_up(repo, revision if entry is None else entry.commit)
        wanted = _choose(repo, snapshot, patterns)
        entry = entry or Locked(revision, snapshot.commit)
    else:
        wanted = {file: entry.files[file] for file in match_files(entry.files, patterns)}
    digests = {
        file: _bring(hub, directory, _Wanted(repo, entry.commit, file, entry.files.get(file, hub_hash)), replaces)
        for file, hub_hash in wanted.items()
    }
    asked = sorted({*entry.patterns, *patterns})
    write_lock(directory, {**record, repo: replace(entry, files={**entry.files, **digests}, patterns=asked)})
    return [directory / repo / file for file in sorted(digests)]


def match_files(files: Sequence[str] | Mapping[str, object], patterns: Sequence[str]) -> list[str]:
    """The paths that match one of the patterns, sorted; ``*`` matches across directories.

    Example:
        >>> match_files(["data/test-0.parquet", "README.md"], ["*test*.parquet"])
        ['data/test-0.parquet']
    """
    return sorted(file for file in files if any(fnmatchcase(file, pattern) for pattern in patterns))


def _choose(repo: str, snapshot: Snapshot, patterns: Sequence[str]) -> dict[str, str | None]:
    for pattern in patterns:
        if not match_files(snapshot.files, [pattern]):
            raise FileNotFoundError(f"files: no file of {repo!r} matches {pattern!r}; it has {sorted(snapshot.files)}")
    return {file: snapshot.files[file] for file in match_files(snapshot.files, patterns)}


def _bring(hub: Hub, directory: Path, wanted: _Wanted, replaces: bool) -> str:
    """Have one file in its place; its hash."""
    target = directory / wanted.repo / wanted.file
    if target.is_file() and wanted.sha256 is not None and not (replaces and sha256(target) != wanted.sha256):
        check_hash(target, wanted.sha256)
        return wanted.sha256
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".incoming-") as incoming:
        fetched = hub.fetch(wanted.repo, wanted.commit, wanted.file, Path(incoming))
        digest = sha256(fetched)
        if wanted.sha256 not in (None, digest):
            raise ValueError(f"files: {wanted} was expected, what came has the SHA-256 {digest}; it was not kept")
        os.replace(fetched, target)
    logger.info("%s: %s at %s, SHA-256 %s", wanted.repo, wanted.file, wanted.commit, digest)
    return digest
