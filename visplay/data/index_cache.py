"""What was found out about files that are large or many, kept in the ``datasets`` cache until they change."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import datasets

from visplay.data.files import replacing

logger = logging.getLogger(__name__)


def read_index(kind: str, *facts: object) -> Any:
    """The JSON value that is on record for these facts, or None where there is none that can be read."""
    try:
        return json.loads(_place(kind, facts).read_bytes())
    except (OSError, ValueError):
        return None


def write_index(value: Any, kind: str, *facts: object) -> None:
    """Keep a JSON value; a disk that does not take it costs the time to find it out again, and no more.

    Args:
        value: What was found out.
        kind: Of what.
        facts: All that it follows from; their ``repr`` counts.
    """
    try:
        with replacing(_place(kind, facts)) as file:
            file.write(json.dumps(value).encode())
    except OSError as error:
        logger.warning("%s are looked at again at the next start: %s", kind, error)


def _place(kind: str, facts: tuple[object, ...]) -> Path:
    return Path(datasets.config.HF_DATASETS_CACHE, kind, hashlib.sha256(repr(facts).encode()).hexdigest())
