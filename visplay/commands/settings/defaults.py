"""Which settings of a run are others than the defaults, for people who compare runs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pydoc import locate
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from visplay.provenance import flatten

_WHERE = ("trainer.logger", "trainer.default_root_dir", "evaluation.directory", "config", "dashboard")
"""Settings that say where a run writes and what is shown of it, and nothing of what it is."""


def changed_settings(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that are others than the defaults of the command line and of the classes that are configured.

    Args:
        settings: All of a run, by dotted name.
        defaults: Those of the command line, likewise.

    Returns:
        Each with its default, null where there is none, by dotted name, without ``init_args``, as the command line
        takes it; what is null is left out.

    Example:
        >>> settings = {"model.class_path": "decimal.Decimal", "model.init_args.value": "3", "trainer.devices": 1}
        >>> changed_settings(settings, {"trainer.devices": 1, "model": None})
        {'model.class_path': ('decimal.Decimal', None), 'model.value': ('3', None)}
    """
    known: dict[str, Any] = {}
    for name, path in settings.items():
        if name.endswith(".class_path") and not name.startswith(_WHERE):
            arguments = name.removesuffix("class_path") + "init_args"
            known |= {f"{arguments}.{each}": value for each, value in _defaults_of(path).items()}
    known |= defaults
    return {
        name.replace(".init_args", ""): (value, known.get(name))
        for name, value in settings.items()
        if value is not None and not name.startswith(_WHERE) and (name not in known or known[name] != value)
    }


@cache
def _defaults_of(path: str) -> Mapping[str, Any]:
    """The defaults of a class by the dotted names of its arguments, as a configuration has them."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(locate(path), "it", fail_untyped=False)
    written = yaml.safe_load(parser.dump(parser.get_defaults(), skip_validation=True))
    return flatten((written or {}).get("it", {}))
