"""Names on the Hugging Face Hub that may as well be mistyped paths: one question before a library asks for minutes."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Literal

import datasets
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_SECONDS = 10.0


def check_reachable(name: str, kind: Literal["model", "dataset"]) -> None:
    """See that the Hub answers, where a library is about to ask it for something that is not on this machine.

    A path, and a name that the libraries' caches know, are left to the library, as is what the Hub answers.

    Args:
        name: What was given as a path or as a name on the Hub.
        kind: What it should be.

    Raises:
        ConnectionError: The Hub does not answer.
    """
    if constants.HF_HUB_OFFLINE or os.path.exists(name) or not _NAME.fullmatch(name) or _is_cached(name, kind):
        return
    try:
        HfApi().repo_info(name, repo_type=kind, timeout=_SECONDS)
    except (HfHubHTTPError, HFValidationError):
        return
    except Exception as error:  # of whichever library the Hub's own asks with
        raise ConnectionError(
            f"{name!r} is no path here{_nearest(name)}, and the Hub does not answer ({type(error).__name__}: {error})"
        ) from None


def _is_cached(name: str, kind: str) -> bool:
    folder = name.replace("/", "--")
    prepared = Path(datasets.config.HF_DATASETS_CACHE, name.replace("/", "___").lower())
    return Path(constants.HF_HUB_CACHE, f"{kind}s--{folder}").is_dir() or (kind == "dataset" and prepared.is_dir())


def _nearest(name: str) -> str:
    """The path that may have been meant."""
    parent = Path(name).parent
    near = difflib.get_close_matches(Path(name).name, os.listdir(parent) if parent.is_dir() else (), n=1)
    return f"; did you mean {str(parent / near[0])!r}?" if near else ""
