"""``visplay plan``: what a run needs, before any weight is loaded; what cannot fit is rejected."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from visplay.data.hub_names import check_reachable
from visplay.foreign_text import visible
from visplay.modules.policy.vlm import VLM
from visplay.planning.plan_tables import amounts_table, as_json, memory_table, notes, rejections
from visplay.planning.reading import given_device, present_device, read_settings, resident_bytes
from visplay.planning.run_plan import make_plan
from visplay.terminal import Terminal

DOES_NOT_FIT = 2
"""Exit code where something does not fit."""


def run(arguments: Sequence[str], instantiate: Callable[[Sequence[str]], Any]) -> None:
    """Plan the run that ``fit`` with the same arguments would be; end with ``DOES_NOT_FIT`` where it cannot fit.

    Args:
        arguments: What follows the command's name.
        instantiate: Builds what the arguments of ``fit`` configure, without loading anything.
    """
    options, rest = _parse(arguments)
    built = instantiate(rest)
    try:
        for path in {module.path for module in built.model.modules() if isinstance(module, VLM)}:
            check_reachable(path, "model")
        plan = make_plan(read_settings(built.model, built.callbacks, built.trainer, _device(options, built.trainer)))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {visible(str(error))}\n")
        raise SystemExit(DOES_NOT_FIT) from error
    if options.json:
        sys.stdout.write(json.dumps(as_json(plan), indent=2) + "\n")
    else:
        console = Terminal()
        console.print(memory_table(plan), amounts_table(plan))
        for note in notes(plan):
            console.print(f"note: {note}", soft_wrap=True)
    if plan.problems:
        sys.stderr.writelines(f"does not fit: {line}\n" for line in rejections(plan))
        raise SystemExit(DOES_NOT_FIT)


def _device(options: argparse.Namespace, trainer: Any) -> Any:
    accelerator, process = str(trainer.accelerator), resident_bytes()
    if options.memory_gib is not None:
        return given_device(accelerator, options.memory_gib, process, options.disk_gib, options.host_gib)
    return present_device(accelerator, process, Path(trainer.default_root_dir or "."))


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="visplay plan",
        description=f"{__doc__} Other arguments are those of `visplay fit`.",
        allow_abbrev=False,
    )
    parser.add_argument("--memory-gib", type=float, help="memory of one GPU; the device that is here by default")
    parser.add_argument("--disk-gib", type=float, help="free disk, with --memory-gib; not checked by default")
    parser.add_argument("--host-gib", type=float, help="CPU memory, with --memory-gib; not checked by default")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON; bytes are numbers")
    return parser.parse_known_args(arguments)
