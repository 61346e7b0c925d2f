"""Costs of a run as a table for people, and as plain values for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import reduce
from operator import add
from typing import Any

from rich.table import Table

from visplay.planning.costs.step_costs import Stage, Step, StepCosts
from visplay.planning.run_plan import gib

COLUMNS = ("", "memory of a GPU", "time", "network, sent by a rank")


def cost_table(costs: StepCosts) -> Table:
    """The lines of ``cost_lines``."""
    device, machine = costs.plan.settings.device, costs.machine
    how = "rates measured" if machine.measured else "computed, not measured"
    strategy = "" if device.count == 1 else ", FSDP2" if device.sharded else ", DDP"
    machines = f"{device.nodes} machine{'s' if device.nodes > 1 else ''}"
    title = f"{device.count} x {machine.name}, {machines}{strategy}: {how}"
    table = Table(*COLUMNS, title=title)
    for line in cost_lines(costs):
        table.add_row(*line, end_section=line[0].startswith("all of"))
    return table


def cost_lines(costs: StepCosts) -> Iterator[list[str]]:
    """Of each stage of a step, of a phase, and of an iteration: memory, time and network bytes."""
    whole = Stage()
    for role in costs.plan.settings.roles:
        step = costs.step(role)
        for name, stage in step.items():
            peak = costs.plan.peak(f"{role.name}: {'update' if name == 'update' else 'rollout'}")
            yield [f"{role.name}: {name}", gib(peak), *_shown(stage)]
        phase = total(step).times(role.grpo.steps)
        whole += phase
        yield [f"all of the {role.name}'s {role.grpo.steps} steps", "", *_shown(phase)]
    if (settings := costs.plan.settings.curation) is not None:
        made, peak = costs.curation(settings.images), costs.plan.peak("curation")
        yield from ([f"curation: {name}", gib(peak), *_shown(stage)] for name, stage in made.items())
        whole += total(made)
        yield [f"all of the curation of {settings.images:,} images", "", *_shown(total(made))]
    yield ["an iteration", "", *_shown(whole)]


def cost_notes(costs: StepCosts) -> list[str]:
    """What a reader of the costs has to know."""
    machine, lengths = costs.machine, costs.lengths
    completions = ", ".join(f"{tokens:,} ({name})" for name, tokens in lengths.completion_tokens.items())
    of_rates = (
        "from rates that were measured on one GPU, and links by data sheets"
        if machine.measured
        else "from data sheets, and fractions of them that are assumed (visplay/planning/costs/machines.py)"
    )
    elsewhere = ["sampling is on other devices, and no part of the time"] if costs.plan.settings.engine is None else []
    return [
        *elsewhere,
        f"time is computed {of_rates}; images have {lengths.image_tokens:,} tokens and completions {completions}, "
        "which --image-tokens and --completion-tokens set",
        "start, checkpoints, evaluation, and reading and decoding images come on top of the stages named",
    ]


def total(step: Step) -> Stage:
    """All stages, one after another."""
    return reduce(add, step.values(), Stage())


def costs_as_json(costs: StepCosts) -> dict[str, Any]:
    """The costs as plain values: seconds and bytes of a step's stages, and of an iteration's curation."""
    steps = {role.name: costs.step(role) for role in costs.plan.settings.roles}
    if (settings := costs.plan.settings.curation) is not None:
        steps["curation"] = costs.curation(settings.images)
    return {
        "machine": asdict(costs.machine),
        "lengths": asdict(costs.lengths),
        "stages": {name: {stage: asdict(cost) for stage, cost in step.items()} for name, step in steps.items()},
    }


def duration(seconds: float) -> str:
    """Seconds as people read them.

    Example:
        >>> duration(0.25), duration(75), duration(86_400), duration(90 * 86_400)
        ('0.25 s', '75 s', '24 h', '90 days')
    """
    for unit, length in (("days", 86_400), ("h", 3_600)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.3g} {unit}" if seconds < 1000 * length else f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:,.0f} s"


def _shown(stage: Stage) -> tuple[str, str]:
    return duration(stage.seconds), gib(stage.network_bytes)
