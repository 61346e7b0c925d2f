"""``visplay check``: whether a model family computes what its checkpoint's processor and model do."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jsonargparse import ArgumentParser
from rich.console import Console

from visplay.checking.check_record import key_of, record
from visplay.checking.family_check import FamilyCheck
from visplay.modules import VLM
from visplay.terminal import set_up_log


def run(arguments: Sequence[str], instantiate: Callable[[Sequence[str]], Any]) -> None:
    """Check what ``--model.vlm`` or a configuration names; a deviation ends the process with its words.

    Args:
        arguments: What follows the command's name.
        instantiate: Builds what the arguments of ``fit`` configure, without loading anything.
    """
    options, rest = _parse(arguments)
    set_up_log()
    try:
        for vlm in _policies(rest, instantiate):
            _check(vlm, options)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error


def _check(vlm: VLM, options: argparse.Namespace) -> None:
    console, started = Console(), time.monotonic()
    vlm.load()
    vlm.to(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    for line in FamilyCheck(vlm, whole=options.save, vllm=options.vllm).run():
        console.print(line, markup=False, soft_wrap=True)
    record(key_of(vlm), vlm)
    seconds = time.monotonic() - started
    console.print(f"{type(vlm).__name__} with {vlm.path}: all as the checkpoint says ({seconds:.0f} s)", soft_wrap=True)


def _policies(arguments: Sequence[str], instantiate: Callable[[Sequence[str]], Any]) -> list[VLM]:
    """One of each family and checkpoint that is named, not loaded."""
    if any(argument.partition("=")[0] in ("-c", "--config") for argument in arguments):
        named = [role.vlm for role in instantiate(arguments).model.roles.values()]
        return list({(type(vlm), vlm.path, vlm.revision): vlm for vlm in named}.values())
    parser = ArgumentParser(prog="visplay check")
    parser.add_argument("--model.vlm", type=VLM, required=True)
    return [parser.instantiate_classes(parser.parse_args(arguments)).model.vlm]


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="visplay check",
        description=f"{__doc__} Name them by --model.vlm=CLASS --model.vlm.path=PATH, or by the arguments of "
        "`visplay fit` with a --config.",
        allow_abbrev=False,
    )
    parser.add_argument("--vllm", action="store_true", help="compare with samples of vLLM, too; it is started for that")
    parser.add_argument("--save", action="store_true", help="save and load the model again, whatever its size")
    parser.add_argument("--device", type=_device, help="where to compute; a GPU where there is one")
    return parser.parse_known_args(arguments)


def _device(name: str) -> str:
    """A device that torch knows."""
    try:
        torch.device(name)
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{name!r} is no device; give cpu, cuda or cuda:1") from error
    return name
