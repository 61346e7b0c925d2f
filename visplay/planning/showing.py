"""A plan as tables for people, and as plain values for programs."""

from __future__ import annotations

from dataclasses import asdict
from math import ceil
from typing import Any

from rich.table import Table

from visplay.planning.plan import Plan, gib, micro_batches
from visplay.planning.quantities import curation_amounts, disk_bytes, host_bytes, phase_amounts
from visplay.planning.rollout import longest_prompt
from visplay.planning.suggestions import suggestions


def memory_table(plan: Plan) -> Table:
    """Bytes on one device, a column a stage, at its peak."""
    device = plan.settings.device
    several = f", one of {device.count}" if device.count > 1 else ""
    title = f"{plan.settings.path}: memory of one device ({gib(device.memory)}{several}) at each stage's peak"
    table = Table("", *plan.stages, title=title)
    for name in dict.fromkeys(name for parts in plan.stages.values() for name in parts):
        table.add_row(name, *(gib(parts[name]) if name in parts else "" for parts in plan.stages.values()))
    table.add_section()
    table.add_row("peak", *(gib(plan.peak(stage)) for stage in plan.stages))
    table.add_row("fits", *("yes" if plan.peak(stage) <= device.memory else "NO" for stage in plan.stages))
    return table


def amounts_table(plan: Plan) -> Table:
    """Tokens of images and sequences, the cache, what an iteration does, and the disk."""
    table = Table("what", "how much", title="Tokens, work and disk")
    for name, value in _facts(plan).items():
        table.add_row(name, value)
    return table


def memory_markdown(plan: Plan) -> str:
    """Memory by stage as a table of Markdown."""
    names = dict.fromkeys(name for parts in plan.stages.values() for name in parts)
    rows = [[name, *(gib(parts[name]) if name in parts else "" for parts in plan.stages.values())] for name in names]
    peaks = [plan.peak(stage) for stage in plan.stages]
    rows.append(["**peak**", *(f"**{gib(peak)}**" for peak in peaks)])
    rows.append(["fits", *("yes" if peak <= plan.settings.device.memory else "**no**" for peak in peaks)])
    return _markdown(["", *plan.stages], rows)


def facts_markdown(plan: Plan) -> str:
    """The other figures as a table of Markdown."""
    return _markdown(["what", "how much"], [list(pair) for pair in _facts(plan).items()])


def _markdown(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain values; bytes are numbers."""
    settings = plan.settings
    return {
        "model": settings.path,
        "weights": settings.shape.parts | {"all": settings.shape.weights, "adapter": settings.shape.adapter_weights},
        "device": asdict(settings.device),
        "stages": {stage: parts | {"peak": plan.peak(stage)} for stage, parts in plan.stages.items()},
        "image_tokens": {"least": settings.image.least_tokens, "most": settings.image.most_tokens},
        "context_tokens": settings.context_tokens,
        "micro_batches": {role.name: [asdict(m) for m in micro_batches(settings, role)] for role in settings.roles},
        "cache": None if plan.cache is None else asdict(plan.cache) | {"sequences": plan.cache.sequences},
        "iteration": {role.name: asdict(phase_amounts(settings, role)) for role in settings.roles}
        | {"curation": curation_amounts(settings)},
        "host": host_bytes(settings),
        "disk": disk_bytes(settings),
        "problems": [
            {
                "kind": each.kind,
                "text": each.text,
                "changes": [[str(c) for c in way] for way in suggestions(plan, each)],
            }
            for each in plan.problems
        ],
    }


def refusals(plan: Plan) -> list[str]:
    """What does not fit, each with the settings to change."""
    lines = []
    for problem in plan.problems:
        ways = [" ".join(map(str, way)) for way in suggestions(plan, problem)]
        advice = f"; would fit with {', or '.join(ways)}" if ways else "; no setting known here makes it fit"
        advice += " (several devices: not in this version)" if any("trainer.devices" in way for way in ways) else ""
        lines.append(f"{problem.text}{advice}")
    return lines


def notes(plan: Plan) -> list[str]:
    """What a reader of the figures has to know."""
    found = []
    if plan.settings.device.count > 1:
        found.append("training on several devices is not in this version: figures are what it would need")
    shape = plan.settings.shape
    if plan.settings.image.tiled or shape.mergers > 1:
        found.append("activations of this family's vision tower and of what joins it to the text are an upper estimate")
    for role in plan.settings.roles:
        c, prompt = role.grpo, longest_prompt(plan.settings, role)
        longest = prompt + c.group_size * c.max_new_tokens
        if longest > c.tokens_per_micro_batch:
            answers = max(1, (c.tokens_per_micro_batch - prompt) // c.max_new_tokens)
            found.append(
                f"{role.name}: a group of the longest answers has {longest:,} tokens, above tokens_per_micro_batch="
                f"{c.tokens_per_micro_batch:,}; it is cut into {ceil(c.group_size / answers)} pieces, each of "
                "which reads the prompt again"
            )
    return found


def _counts(parts: dict[str, int]) -> str:
    return ", ".join(f"{part} {count:,}" for part, count in parts.items())


def _facts(plan: Plan) -> dict[str, str]:
    s = plan.settings
    facts = {
        "weights": _counts(s.shape.parts),
        **({"weights of an adapter": _counts(s.shape.adapters)} if s.shape.adapters else {}),
        "tokens of an image": f"at most {s.image.most_tokens:,}"
        if s.image.tiled
        else f"{s.image.least_tokens:,} to {s.image.most_tokens:,}",
        "context": f"{s.context_tokens:,} tokens",
    }
    for role in s.roles:
        taken = s.image.most_tokens + role.template_tokens + role.grpo.max_new_tokens
        facts[f"{role.name}, longest sequence"] = (
            f"image {s.image.most_tokens:,} + prompt {role.template_tokens:,} + answer {role.grpo.max_new_tokens:,}"
            f" = {taken:,}; room for {max(s.context_tokens - taken, 0):,} more"
        )
    if plan.cache is not None:
        facts["key-value cache"] = (
            f"{plan.cache.token_bytes:,} bytes a token; {plan.cache.sequences:,} sequences of "
            f"{plan.cache.sequence_tokens:,} tokens in {gib(max(plan.cache.total, 0))}"
        )
    for role in s.roles:
        done = phase_amounts(s, role)
        votes = f", {done.votes:,} votes (at most {done.vote_tokens:,} tokens)" if done.votes else ""
        facts[f"{role.name}, a phase"] = (
            f"{done.steps:,} steps, {done.updates:,} updates, {done.prompts:,} prompts, {done.rollouts:,} rollouts "
            f"(at most {done.tokens:,} tokens){votes}"
        )
    if made := curation_amounts(s):
        facts["data set, an iteration"] = ", ".join(f"{number:,} {name}" for name, number in made.items())
    facts |= {f"host: {name}": gib(size) for name, size in host_bytes(s).items()}
    facts |= {f"disk: {name}": gib(size) for name, size in disk_bytes(s).items()}
    return facts
