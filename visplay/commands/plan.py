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
from visplay.planning.costs.cost_tables import cost_notes, cost_table, costs_as_json
from visplay.planning.costs.machines import MACHINES, with_rates
from visplay.planning.costs.step_costs import Lengths, StepCosts
from visplay.planning.plan_tables import amounts_table, as_json, memory_table, notes, rejections
from visplay.planning.reading import given_device, present_device, read_settings, resident_bytes
from visplay.planning.run_plan import Plan, make_plan
from visplay.planning.settings import Device
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
    if options.gpus is not None:
        rest += [f"--trainer.devices={options.gpus // options.nodes}", f"--trainer.num_nodes={options.nodes}"]
    built = instantiate(rest)
    costs = None
    try:
        for path in {module.path for module in built.model.modules() if isinstance(module, VLM)}:
            check_reachable(path, "model")
        plan = make_plan(read_settings(built.model, built.callbacks, built.trainer, _device(options, built.trainer)))
        if options.gpus is not None:
            costs = _costs(options, plan)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {visible(built.words(error))}\n")
        raise SystemExit(DOES_NOT_FIT) from error
    if options.json:
        told = as_json(plan) | ({} if costs is None else {"costs": costs_as_json(costs)})
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
    else:
        console = Terminal()
        console.print(memory_table(plan), amounts_table(plan))
        if costs is not None:
            console.print(cost_table(costs))
        for note in notes(plan) + ([] if costs is None else cost_notes(costs)):
            console.print(f"note: {note}", soft_wrap=True)
    if plan.problems:
        sys.stderr.writelines(f"does not fit: {line}\n" for line in rejections(plan))
        raise SystemExit(DOES_NOT_FIT)


def _device(options: argparse.Namespace, trainer: Any) -> Device:
    accelerator, process = str(trainer.accelerator), resident_bytes()
    if options.gpus is not None:
        memory = options.memory_gib or MACHINES[options.machine].memory_gib
        return given_device("gpu", memory, process, options.disk_gib, options.host_gib)
    if options.memory_gib is not None:
        return given_device(accelerator, options.memory_gib, process, options.disk_gib, options.host_gib)
    return present_device(accelerator, process, Path(trainer.default_root_dir or "."))


def _costs(options: argparse.Namespace, plan: Plan) -> StepCosts:
    machine = MACHINES[options.machine]
    if options.rates is not None:
        machine = with_rates(machine, options.rates)
    image, given = plan.settings.image, options.image_tokens
    if given is not None and not image.least_tokens <= given <= image.most_tokens:
        raise ValueError(
            f"image-tokens: {given} must be between {image.least_tokens} and {image.most_tokens}, the tokens of the "
            "smallest and the largest image"
        )
    limits = {role.name: role.grpo.max_new_tokens for role in plan.settings.roles}
    completions = {name: min(limit, options.completion_tokens or limit) for name, limit in limits.items()}
    return StepCosts(plan, machine, Lengths(given or image.most_tokens, completions))


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
    costs = parser.add_argument_group("costs", "seconds and network bytes of each stage, with --gpus")
    costs.add_argument("--gpus", type=_positive, help="GPUs in all; shared weights where trainer.strategy cuts them")
    costs.add_argument("--nodes", type=_positive, default=1, help="machines that they are in")
    costs.add_argument("--machine", choices=MACHINES, default="h100", help="kind of GPU, by its data sheet")
    costs.add_argument(
        "--rates", type=Path, help="rates measured on such a GPU: python -m benchmarks.costs --rates FILE"
    )
    costs.add_argument("--image-tokens", type=_positive, help="mean of an image; the largest by default")
    costs.add_argument("--completion-tokens", type=_positive, help="mean of a completion; the most by default")
    options, rest = parser.parse_known_args(arguments)
    for name in ("memory_gib", "disk_gib", "host_gib"):
        if (given := getattr(options, name)) is not None and given <= 0:
            parser.error(f"argument --{name.replace('_', '-')}: {given:g} must be above 0")
    if options.gpus is None and options.nodes > 1:
        parser.error(f"argument --nodes: {options.nodes} needs --gpus, the number of all their GPUs")
    if options.gpus is not None and options.gpus % options.nodes:
        parser.error(f"argument --gpus: {options.gpus} must be a multiple of --nodes {options.nodes}")
    return options, rest


def _positive(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, at least 1")
    return int(text)
