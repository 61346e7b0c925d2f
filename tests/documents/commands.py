"""Command lines of the documents, and the arguments of ``visplay fit`` in them."""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import shlex
from pathlib import Path

import pytest

from visplay.__main__ import MODULES, USAGE
from visplay.cli import VisPlayCLI
from visplay.commands import check


class Parsed(Exception):
    """A command has accepted its arguments, and is not to do anything."""


def commands(block):
    """The command lines of a block, each as (its words, the variables set before it)."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        variables = []
        while words and re.match(r"\w+=", words[0]):
            variables.append(words.pop(0))
        if words:
            yield tuple(words), tuple(variables)


def settings_of(words):
    """The arguments of ``fit`` among those of a command of visplay, whose own options are parsed; None has none."""
    command, *rest = words
    assert re.search(rf"^  {command} ", USAGE, re.MULTILINE), f"{command}: no command of visplay"
    if command in VisPlayCLI.subcommands():
        return rest
    given = []

    def parsed(arguments):
        given.append(arguments)
        raise Parsed

    parse_args = argparse.ArgumentParser.parse_args
    run = importlib.import_module(MODULES.get(command, f"visplay.commands.{command}")).run
    builds = "instantiate" in inspect.signature(run).parameters
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", lambda *given: parsed(parse_args(*given)))
        patch.setattr(check, "_check", lambda *_: parsed(None))
        with pytest.raises(Parsed):
            run(*([rest, parsed] if builds else [rest]))
    return given[0] if builds else None


def visplay_words(words):
    """What follows ``visplay`` in a command, however it is started; None where nothing of visplay is."""
    if Path(words[0]).name == "visplay":
        return words[1:]
    if "-m" in words and words[words.index("-m") + 1] == "visplay":
        return words[words.index("-m") + 2 :]
    if words[0] == "sbatch":
        return ("fit", *words[1 + next(n for n, word in enumerate(words) if word.endswith(".sbatch")) :])
    return None


def split_configs(settings):
    """The configuration files among arguments of ``fit``, and the other arguments, each one word."""
    words = iter(settings)
    joined = [f"{word}={next(words)}" if word in ("--config", "--ckpt_path") else word for word in words]
    configs = tuple(word for word in joined if word.startswith("--config="))
    return configs, tuple(word for word in joined if word not in (*configs, "--print_config"))
