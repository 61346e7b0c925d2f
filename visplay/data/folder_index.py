"""Which files of a directory were good images when they were looked at, so that they are not decoded at every start."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import datasets

from visplay.data.decoding import ImageLimits
from visplay.data.files import replacing

logger = logging.getLogger(__name__)

State = tuple[int, int]
"""Size of a file in bytes, and when it was changed last, in nanoseconds."""


def look(path: Path) -> State | None:
    """The state of a file, or None if there is none to be had."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_ctime_ns  # which a copy or another right changes, too


def read_good(root: Path, limits: ImageLimits) -> dict[str, State]:
    """The good images of a directory by key, in the states that they had; none where nothing is on record."""
    try:
        known = json.loads(_index_file(root, limits).read_bytes())
        return {key: (size, changed) for key, (size, changed) in known.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write_good(root: Path, limits: ImageLimits, states: Mapping[str, State]) -> None:
    """Keep the good images of a directory in the ``datasets`` cache; a disk that does not take it costs time alone."""
    try:
        with replacing(_index_file(root, limits)) as file:
            file.write(json.dumps(states).encode())
    except OSError as error:
        logger.warning("%s: its images will be looked at again at the next start: %s", root, error)


def _index_file(root: Path, limits: ImageLimits) -> Path:
    facts = str(root.resolve()), repr(limits)
    return Path(datasets.config.HF_DATASETS_CACHE, "folders", hashlib.sha256(repr(facts).encode()).hexdigest())
