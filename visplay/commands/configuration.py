"""Parts of configuration files, for commands that need neither a trainer nor the whole of a configuration."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ArgumentParser, Namespace
from omegaconf import OmegaConf

TRAINER_DEFAULTS: Mapping[str, Any] = {
    "default_root_dir": "runs",  # all that a run writes is stored under it
    "devices": 1,
    "num_sanity_val_steps": -1,  # evaluates the base before the first step
    "log_every_n_steps": 1,
    "enable_model_summary": False,  # visplay plan counts the weights
}
"""Settings of every trainer, which files need not state but may refer to."""

T = TypeVar("T")
_HOME = re.compile(r"~[\w.-]*(/|\Z)")


def expand_home(value: Any) -> Any:
    """Settings in which every path that begins with ``~`` is of the home that a shell would mean; it may be the same.

    Example:
        >>> expand_home({"path": "~/x", "text": "~5 cm"}) == {"path": os.path.expanduser("~/x"), "text": "~5 cm"}
        True
    """
    if isinstance(value, str):
        return os.path.expanduser(value) if _HOME.match(value) else value
    if isinstance(value, Path):
        return value.expanduser()
    if isinstance(value, Namespace):
        for name, each in vars(value).items():
            setattr(value, name, expand_home(each))
    elif isinstance(value, dict):
        return {name: expand_home(each) for name, each in value.items()}
    elif isinstance(value, list | tuple):
        return type(value)([expand_home(each) for each in value])
    return value


def read_config(paths: Sequence[str], key: str = "model.class_path") -> Any:
    """Configuration files merged; a later one overrides.

    Raises:
        ValueError: There is no such key in them.
    """
    files = [OmegaConf.load(os.path.expanduser(path)) for path in paths]
    merged = OmegaConf.merge({"trainer": dict(TRAINER_DEFAULTS)}, *files)
    if OmegaConf.select(merged, key) is None:
        raise ValueError(f"config: {', '.join(paths)}: there is no {key}")
    return merged


def build(kind: type[T], settings: Any) -> T:
    """What a part of a configuration describes, an object of a class or of one of its subclasses.

    Raises:
        argparse.ArgumentError: The settings are not those of the class.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--it", type=kind)
    parsed = parser.parse_object({"it": expand_home(OmegaConf.to_container(settings, resolve=True))})
    return parser.instantiate_classes(parsed).it
