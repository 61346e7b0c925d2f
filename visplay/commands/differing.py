"""Which settings of a run differ from the defaults, which are those of the constructors."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import asdict, is_dataclass
from pydoc import locate
from typing import Any

from lightning import Trainer

from visplay.callbacks.evaluation import Evaluation
from visplay.callbacks.self_play import SelfPlay
from visplay.commands.configuration import TRAINER_DEFAULTS

_CLASSES: Mapping[str, type] = {"trainer": Trainer, "self_play": SelfPlay, "evaluation": Evaluation}
_CHOSEN = ("model", "data", "rollout", "teacher")
"""Keys whose class is a choice; the others with a class have it by default."""
_TRUSTED = ("visplay.", "lightning.")
"""Packages whose classes may be imported to see what they take by default."""
_NONE = object()


def differing_settings(config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value and default of each setting that differs; of a class that is not ours, all are named.

    Args:
        config: A run's ``config.yaml``.

    Example:
        >>> differing_settings({"self_play": {"iterations": 6, "validate_every": 1}})
        [('self_play.iterations', '6', '3')]
    """
    found: list[tuple[str, Any, Any]] = []
    for key, value in config.items():
        if key == "trainer" and "TensorBoardLogger" in str(value.get("logger")):  # the command line's own
            value = {name: each for name, each in value.items() if name != "logger"}
        defaults = _arguments(_CLASSES[key]) if key in _CLASSES else {}
        if key == "trainer":
            defaults |= TRAINER_DEFAULTS
        if key in _CLASSES:
            for name in value:
                found += _differ(f"{key}.{name}", value[name], defaults.get(name, _NONE))
        elif isinstance(value, Mapping) and "class_path" in value:
            rows = list(_differ_in_class(key, value))
            found += rows if key in _CHOSEN else rows[1:]
    return [(name, _word(value), "" if default is _NONE else _word(default)) for name, value, default in found]


def _differ(name: str, value: Any, default: Any) -> Iterator[tuple[str, Any, Any]]:
    """The settings below one that differ from its default."""
    if is_dataclass(default) and not isinstance(default, type):
        default = asdict(default)
    if isinstance(value, Mapping) and "class_path" in value:
        yield from _differ_in_class(name, value)
    elif isinstance(value, Mapping) and isinstance(default, Mapping):
        for key in value:
            yield from _differ(f"{name}.{key}", value[key], default.get(key, _NONE))
    elif isinstance(value, Mapping) and value and default in (_NONE, None):
        for key in value:
            yield from _differ(f"{name}.{key}", value[key], _NONE)
    elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        for number, each in enumerate(value):
            yield from _differ(f"{name}[{number}]", each, _NONE)
    elif not (value is None and default is _NONE) and _word(value) != _word(default):
        yield name, value, default


def _differ_in_class(name: str, value: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """The class, and its arguments that differ from their defaults."""
    path = value["class_path"]
    kind = locate(path) if path.startswith(_TRUSTED) else None
    defaults = _arguments(kind) if inspect.isclass(kind) else {}
    yield name, path, _NONE
    for key, each in (value.get("init_args") or {}).items():
        yield from _differ(f"{name}.{key}", each, defaults.get(key, _NONE))


def _arguments(kind: type) -> dict[str, Any]:
    """The defaults of a constructor's arguments, those of the classes it passes them on to included."""
    defaults: dict[str, Any] = {}
    for each in reversed(kind.__mro__):
        if "__init__" in vars(each):
            parameters = inspect.signature(each.__init__).parameters.values()  # type: ignore[misc]
            defaults |= {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    return defaults


def _word(value: Any) -> str:
    """A value as YAML and the constructor may both write it."""
    if value is None or value is _NONE:
        return "null"
    if callable(value):
        return getattr(value, "__name__", repr(value))
    if isinstance(value, str):
        return value.rpartition(".")[2] if value.startswith("visplay.functional.") else value
    if isinstance(value, set | frozenset):
        value = sorted(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_word, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
