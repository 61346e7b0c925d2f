"""Which families were found right, in a small file: a path is checked the first time that it is loaded, not again.

The file is ``checked.json`` in ``VISPLAY_CACHE``, else in ``visplay`` of the user's cache directory. A key stands for a
path with its revision and configuration, for the family's code and this package's, and for versions and device.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import torch
import transformers

from visplay.checking.family_check import FamilyCheck
from visplay.data.files import replacing
from visplay.modules import policy
from visplay.modules.policy.vlm import VLM

logger = logging.getLogger(__name__)


def check_once(vlm: VLM) -> bool:
    """Check a policy that is loaded, unless that was done before; returns whether it was done now.

    Raises:
        FamilyError: The family does not compute what its checkpoint does.
    """
    key, started = key_of(vlm), time.monotonic()
    if key in _read():
        return False
    for line in FamilyCheck(vlm).run():
        logger.debug("%s: %s", vlm.path, line)
    seconds = time.monotonic() - started
    logger.info("%s: checked against its processor and its own forward pass in %.1f s, once", vlm.path, seconds)
    record(key, vlm)
    return True


def record(key: str, vlm: VLM) -> None:
    """Note that a policy was found right; where nothing can be written, it is checked again next time."""
    entry = {"family": _name(type(vlm)), "path": vlm.path, "revision": vlm.revision}
    try:
        with replacing(record_path()) as file:
            file.write(json.dumps(_read() | {key: entry}, indent=2).encode())
    except OSError as error:
        logger.warning("what was checked is not noted: %s", error)


def record_path() -> Path:
    """The file."""
    directory = os.environ.get("VISPLAY_CACHE")
    if directory:
        return Path(directory).expanduser() / "checked.json"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "visplay" / "checked.json"


def was_checked(vlm: VLM, device_type: str) -> bool:
    """Whether a policy that is loaded was found right on such a device."""
    return key_of(vlm, device_type) in _read()


def key_of(vlm: VLM, device_type: str | None = None) -> str:
    """What a check of a policy that is loaded depends on, as a hash; of the weights only their revision.

    Args:
        vlm: The policy.
        device_type: Where it computes; None is where it is.
    """
    config, images = vlm.model.config, getattr(vlm.processor, "image_processor", None)
    settings = (vlm.attn_implementation, vlm.min_pixels, vlm.max_pixels, vlm.max_context_tokens)
    known: list[Any] = [
        _name(type(vlm)),
        _code(vlm),
        os.path.realpath(vlm.path) if Path(vlm.path).is_dir() else vlm.path,
        (vlm.revision, getattr(config, "_commit_hash", None)),
        (config.to_json_string(), images.to_json_string() if images else None, vlm.tokenizer.chat_template),
        settings,
        (torch.__version__, transformers.__version__, device_type or vlm.device.type),
    ]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def _code(vlm: VLM) -> str:
    """Hash of the family's source, and of what this package computes and compares with."""
    own = [inspect.getsourcefile(kind) for kind in type(vlm).__mro__ if issubclass(kind, VLM)]
    rooms = [Path(policy.__path__[0]), Path(__file__).parent]
    files = {Path(file) for file in own if file} | {file for room in rooms for file in room.rglob("*.py")}
    found = hashlib.sha256()
    for file in sorted(files):
        found.update(file.read_bytes())
    return found.hexdigest()


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _read() -> dict[str, Any]:
    try:
        found = json.loads(record_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
