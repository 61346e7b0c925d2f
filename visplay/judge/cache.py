"""Verdicts on disk, shared by processes and runs."""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
import time
from pathlib import Path

from visplay.judge.config import Ruling
from visplay.judge.protocols import MalformedReplyError, read_score

logger = logging.getLogger(__name__)
_LOOK_AGAIN_SECONDS = 1.0


class VerdictCache:
    r"""Rulings by content key, in a directory of JSON lines: one file per writer, everybody reads all files.

    A file has a single writer and is only appended to, one line in one call, so that there is nothing to lock, and a
    network file system, where SQLite's and ``flock``'s locks are not to be trusted, will do. A process that is killed
    leaves at most half a line, at the end of a file that nobody continues; readers take complete lines only. What is
    stored is a hash and a ruling, no question, answer or key.

    Args:
        directory: The directory, created with the first ruling; None keeps rulings in memory only.
    """

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        self._rulings: dict[str, Ruling] = {}
        self._read_bytes: dict[Path, int] = {}
        self._looked_at = -float("inf")
        self._path: Path | None = None
        self._owner = os.getpid()
        self._lock = threading.Lock()

    def get(self, key: str) -> Ruling | None:
        """Look a ruling up; what others write is seen within a second."""
        with self._lock:
            now = time.monotonic()
            if key not in self._rulings and self.directory and now - self._looked_at > _LOOK_AGAIN_SECONDS:
                self._looked_at = now
                for path in sorted(self.directory.glob("verdicts-*.jsonl")):
                    self._read_new_lines(path)
            return self._rulings.get(key)

    def put(self, key: str, ruling: Ruling) -> None:
        """Keep a ruling; it survives this process once this returns. An OSError if the disk does not take it."""
        with self._lock:
            self._rulings[key] = ruling
            if self.directory is None:
                return
            if self._path is None or self._owner != os.getpid():  # a fork must not write to its parent's file
                self.directory.mkdir(parents=True, exist_ok=True)
                self._path, self._owner = self.directory / f"verdicts-{secrets.token_hex(8)}.jsonl", os.getpid()
            line = json.dumps({"key": key, "correct": ruling.correct, "score": ruling.score}).encode() + b"\n"
            with self._path.open("ab", buffering=0) as file:
                written = file.write(line)
            if written != len(line):
                path, self._path = self._path, None  # whatever follows would be on the same line
                raise OSError(f"{path}: the disk took part of a verdict only")

    def _read_new_lines(self, path: Path) -> None:
        """Take the complete lines that were added since the last time; what was there first stays."""
        start = self._read_bytes.get(path, 0)
        with path.open("rb") as file:
            file.seek(start)
            data = file.read()
        end = data.rfind(b"\n") + 1
        self._read_bytes[path] = start + end
        broken = 0
        for line in data[:end].splitlines():
            try:
                entry = json.loads(line)
                key, correct, score = entry["key"], entry["correct"], entry["score"]
                ruling = Ruling(correct, None if score is None else read_score(score))
                if not isinstance(key, str) or type(correct) is not bool:
                    raise TypeError("key, correct: must be a text and a boolean")
                self._rulings.setdefault(key, ruling)
            except (ValueError, KeyError, TypeError, RecursionError, MalformedReplyError):
                broken += 1
        if broken:
            logger.warning("%s: %d lines are no verdicts and are passed over", path, broken)
