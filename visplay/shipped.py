"""What comes with the package besides code: configurations, found by name, and the base models of the small worlds."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

_PACKAGE = Path(__file__).parent


def configurations() -> dict[str, Path]:
    """The files of ``configs/`` by name: ``tiny``, ``lora``, ``recipes/visplay``.

    A wheel has them in the package (see setup.py), a checkout and an editable installation next to it.
    """
    installed = _PACKAGE / "configs"
    root = installed if installed.is_dir() else _PACKAGE.parent / "configs"
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in sorted(root.rglob("*.yaml"))}


def find_configuration(given: str) -> str:
    """The file that ``--config`` means: a path that exists, else a configuration of the package by its name.

    Args:
        given: The argument as it was given; what is neither, such as the text of a configuration, is returned.

    Raises:
        FileNotFoundError: It is the name, or the path, of no file.
    """
    path, known = os.path.expanduser(given), configurations()
    if os.path.exists(path):
        return path
    if given in known:
        return str(known[given])
    if ":" in given:
        return given
    near = difflib.get_close_matches(Path(given).with_suffix("").as_posix().removeprefix("configs/"), known, 2, 0.75)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    raise FileNotFoundError(f"config: {given!r} is no file here, and no configuration of the package; {hint}")


def find_model(path: str) -> str:
    """A path as it is, but for that of a base model of the package, such as ``visplay/tiny/base``, from elsewhere."""
    shipped = _PACKAGE.parent / path
    return str(shipped) if not os.path.exists(path) and shipped.is_relative_to(_PACKAGE) and shipped.is_dir() else path
