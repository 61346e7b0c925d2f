"""Parts of configuration files, for commands that need neither a trainer nor the whole of a configuration."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentParser, Namespace
from omegaconf import OmegaConf

from visplay.shipped import find_configuration

TRAINER_DEFAULTS: Mapping[str, Any] = {
    "default_root_dir": "runs",  # all that a run writes is stored under it
    "devices": 1,
    "num_sanity_val_steps": -1,  # evaluates the base before the first step
    "log_every_n_steps": 1,
    "enable_model_summary": False,  # visplay plan counts the weights
}
"""Settings of every trainer, which files need not state but may refer to."""

COMPUTING = ("accelerator", "strategy", "devices", "precision", "plugins", "deterministic", "benchmark")
"""Settings of a run's trainer that numbers depend on, for a trainer that computes likewise and does something else."""

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


def check_configuration(path: str) -> None:
    """See that a file holds settings; what is no path, such as the text of some, is left to who reads it.

    Raises:
        ValueError: It is no YAML file, or holds something else.
    """
    if not os.path.exists(path):
        return
    if not os.path.isfile(path):
        raise ValueError(f"config: {path!r} is a directory; give a file in it")
    try:
        held = yaml.safe_load(Path(path).read_bytes())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"config: {path!r} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(held, dict):
        what = "is empty" if held is None else f"holds a {type(held).__name__}"
        raise ValueError(f"config: {path!r} {what}; it must hold settings, as name: value")


def read_config(paths: Sequence[str], key: str = "model.class_path") -> Any:
    """Configurations merged, each a file or a name of the package's; a later one overrides.

    Raises:
        FileNotFoundError: There is no such configuration.
        ValueError: There is no such key in them, or one holds no settings.
    """
    found = [find_configuration(path) for path in paths]
    for path in found:
        check_configuration(path)
    files = [OmegaConf.load(path) for path in found]
    merged = OmegaConf.merge({"trainer": dict(TRAINER_DEFAULTS)}, *files)
    if OmegaConf.select(merged, key) is None:
        raise ValueError(f"config: {', '.join(paths)}: there is no {key}")
    return merged


def build(kind: type[T], settings: Any) -> T:
    """What a part of a configuration describes, an object of a class or of one of its subclasses.

    Raises:
        argparse.ArgumentError: The settings are not those of the class.
        ValueError: Its constructor rejects one, one is null that cannot be, or a number is too large.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_instantiator(construct, object)
    parser.add_argument("--it", type=kind)
    try:
        parsed = parser.parse_object({"it": expand_home(OmegaConf.to_container(settings, resolve=True))})
    except OverflowError as error:  # of a whole number where any is allowed
        raise ValueError(f"a number is too large: {error}") from error
    return parser.instantiate_classes(parsed).it


def construct(kind: type[T], *args: Any, **given: Any) -> T:
    """Build an object as a parser's instantiator; null, which jsonargparse takes for any type, must be of its type.

    Raises:
        ValueError: An argument is null, and neither its type nor its default is.

    Example:
        >>> construct(range, 3)
        range(0, 3)
    """
    try:
        hints, parameters = get_type_hints(kind.__init__), inspect.signature(kind).parameters
    except (NameError, TypeError, ValueError):  # not ours: its types cannot be read
        return kind(*args, **given)
    for name in (name for name, value in given.items() if value is None and name in hints and name in parameters):
        hint = hints[name]
        if parameters[name].default is not None and hint is not Any and type(None) not in get_args(hint):
            raise ValueError(f"{name}: must not be null, need {getattr(hint, '__name__', hint)}")
    return kind(*args, **given)
