"""Parts of configuration files, for commands that need neither a trainer nor the whole of a configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from jsonargparse import ArgumentParser
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


def read_config(paths: Sequence[str], key: str = "model.class_path") -> Any:
    """Configuration files merged; a later one overrides.

    Raises:
        ValueError: There is no such key in them.
    """
    merged = OmegaConf.merge({"trainer": dict(TRAINER_DEFAULTS)}, *(OmegaConf.load(path) for path in paths))
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
    parsed = parser.parse_object({"it": OmegaConf.to_container(settings, resolve=True)})
    return parser.instantiate_classes(parsed).it
