"""The parser of the command line: configurations by name, and errors of one line that name what was meant."""

from __future__ import annotations

import argparse
import inspect
import re
from pydoc import locate
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser
from lightning.pytorch.cli import LightningArgumentParser

from visplay.commands.settings.configuration import check_configuration
from visplay.commands.settings.plain_errors import explain, nearest, unknown_keys
from visplay.foreign_text import visible
from visplay.shipped import find_configuration

_CLASS = re.compile(r"class_path '([\w.]+)'")


class NamedConfig(ActionConfigFile):
    """``--config``: a file, or the name of one of the package's configurations."""

    def __call__(self, parser: ArgumentParser, cfg: Any, values: str, option_string: str | None = None) -> None:
        """Add what the configuration says."""
        try:
            path = find_configuration(values)
            check_configuration(path)
        except (FileNotFoundError, ValueError) as error:
            parser.error(str(error))
        super().__call__(parser, cfg, path, option_string)


class SuggestingParser(LightningArgumentParser):
    """Names the nearest known key when one is unknown."""

    def add_argument(self, *names: Any, **options: Any) -> Any:
        """As the base class does; a configuration may be given by its name."""
        if options.get("action") is ActionConfigFile:
            options |= {"action": NamedConfig, "help": "File, or name of one of the package's: tiny, recipes/visplay."}
        return super().add_argument(*names, **options)

    def exit(self, status: int = 0, message: str | None = None) -> None:
        """Exit with words in which control characters are visible, as they may quote a file or a table."""
        super().exit(status, None if message is None else visible(message, "\n"))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with one line that names the key, what it was given, and what is allowed or was meant."""
        near = (self._nearest(name, message) for name in unknown_keys(message))
        message = "\n".join([message, *(f"did you mean {name!r}?" for name in near if name)])
        if not self.exit_on_error:  # of a class within: the outermost parser explains
            super().error(message, ex)
        self.exit(2, f"error: {explain(message)}\n")
        raise AssertionError("exit raises")

    def _nearest(self, unknown: str, message: str) -> str | None:
        """The nearest among the parser's keys, first of the same group, and the arguments of the classes named."""
        group, _, name = unknown.rpartition(".")
        depth = unknown.count(".") + 1
        known = {".".join(dest.split(".")[-depth:]) for dest in _destinations(self)}
        for path in _CLASS.findall(message):
            known |= set(inspect.signature(locate(path)).parameters)  # type: ignore[arg-type]
        siblings = [key.rpartition(".")[2] for key in known if key.rpartition(".")[0] == group]
        near = nearest(name, siblings)
        return nearest(unknown, known) if near is None else ".".join(filter(None, (group, near)))


def _destinations(parser: argparse.ArgumentParser) -> set[str]:
    """Every key of a parser and of its subcommands."""
    found = {action.dest for action in parser._actions}
    for action in parser._actions:
        if isinstance(action.choices, dict):
            found |= {dest for sub in action.choices.values() for dest in _destinations(sub)}
    return found
