"""A plan as tables for people, and as plain values for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from math import ceil
from typing import Any

from rich.table import Table

from visplay.planning.amounts import curation_amounts, disk_bytes, host_bytes, phase_amounts
from visplay.planning.run_plan import Plan, gib, micro_batches
from visplay.planning.suggestions import suggestions


def memory_table(plan: Plan) -> Table:
    """Bytes on one device, a column a stage, at its peak."""
    device = plan.settings.device
    several = f", one of {device.count}" if device.count > 1 else ""
    title = f"{plan.settings.path}: memory of one device ({gib(device.memory)}{several}) at each stage's peak"
    table = Table("", *plan.stages, title=title)
    for line in memory_lines(plan):
        if line[0] == "peak":
            table.add_section()
        table.add_row(*line)
    return table


def memory_lines(plan: Plan) -> list[list[str]]:
    """The lines of ``memory_table``: of each part its bytes in every stage, then the sum, and whether it fits."""
    stages = plan.stages
    names = dict.fromkeys(name for parts in stages.values() for name in parts)
    lines = [[name, *(gib(parts[name]) if name in parts else "" for parts in stages.values())] for name in names]
    lines.append(["peak", *(gib(plan.peak(stage)) for stage in stages)])
    fits = ("yes" if plan.peak(stage) <= plan.settings.device.memory else "NO" for stage in stages)
    return [*lines, ["fits", *fits]]


def amounts_table(plan: Plan) -> Table:
    """The lines of ``amounts_lines``."""
    table = Table("what", "how much", title="Tokens, work and disk")
    for line in amounts_lines(plan):
        table.add_row(*line)
    return table


def amounts_lines(plan: Plan) -> Sequence[tuple[str, str]]:
    """Tokens of images and sequences, the cache, what an iteration does, and the disk."""
    s = plan.settings
    facts = {"weights": _counts(s.shape.parts)}
    if s.shape.adapters:
        facts["weights of an adapter"] = _counts(s.shape.adapters)
    tokens = (
        f"at most {s.image.most_tokens:,}" if s.image.tiled else f"{s.image.least_tokens:,} to {s.image.most_tokens:,}"
    )
    if s.image.most_tokens:
        facts["tokens of an image"] = tokens
    facts["context"] = f"{s.context_tokens:,} tokens"
    for role in s.roles:
        taken = s.longest_prompt(role) + role.grpo.max_new_tokens
        image = f"image {s.image.most_tokens:,} + " if s.image.most_tokens else ""
        facts[f"{role.name}, longest sequence"] = (
            f"{image}prompt {role.template_tokens:,} + answer {role.grpo.max_new_tokens:,}"
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
        blind = f", {done.blind:,} from descriptions (at most {done.blind_tokens:,} tokens)" if done.blind else ""
        facts[f"{role.name}, a phase"] = (
            f"{done.steps:,} steps, {done.updates:,} updates, {done.prompts:,} prompts, {done.rollouts:,} rollouts "
            f"(at most {done.tokens:,} tokens){votes}{blind}"
        )
    if made := curation_amounts(s):
        facts["data set, an iteration"] = ", ".join(f"{number:,} {name}" for name, number in made.items())
    facts |= {f"CPU memory: {name}": gib(size) for name, size in host_bytes(s).items()}
    facts |= {f"disk: {name}": gib(size) for name, size in disk_bytes(s).items()}
    return list(facts.items())


def _counts(parts: dict[str, int]) -> str:
    return ", ".join(f"{part} {count:,}" for part, count in parts.items() if count)


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain values; bytes are numbers."""
    s = plan.settings
    return {
        "model": s.path,
        "weights": s.shape.parts | {"all": s.shape.weights, "adapter": s.shape.adapter_weights},
        "device": asdict(s.device),
        "stages": {stage: parts | {"peak": plan.peak(stage)} for stage, parts in plan.stages.items()},
        "image_tokens": {"least": s.image.least_tokens, "most": s.image.most_tokens},
        "context_tokens": s.context_tokens,
        "micro_batches": {role.name: [asdict(micro) for micro in micro_batches(s, role)] for role in s.roles},
        "cache": None if plan.cache is None else asdict(plan.cache) | {"sequences": plan.cache.sequences},
        "iteration": {role.name: asdict(phase_amounts(s, role)) for role in s.roles}
        | {"curation": curation_amounts(s)},
        "host": host_bytes(s),
        "disk": disk_bytes(s),
        "problems": [
            asdict(each) | {"changes": [[str(change) for change in way] for way in suggestions(plan, each)]}
            for each in plan.problems
        ],
    }


def rejections(plan: Plan) -> list[str]:
    """What does not fit, each with the settings to change."""
    lines = []
    for problem in plan.problems:
        ways = [" ".join(map(str, way)) for way in suggestions(plan, problem)]
        advice = f"would fit with {', or '.join(ways)}" if ways else "no setting known here makes it fit"
        lines.append(f"{problem.text}; {advice}")
    return lines


def notes(plan: Plan) -> list[str]:
    """What a reader of the figures has to know."""
    s, found = plan.settings, []
    if s.device.sharded:
        found.append(f"figures are those of one rank; {s.device.count} have one copy of all weights together (FSDP2)")
    elif s.device.count > 1:
        ranks = s.device.count // s.device.nodes
        found.append(f"figures are those of one rank; the CPU memory of {ranks} on one machine is as many times that")
    if s.image.most_tokens and (s.image.tiled or s.shape.mergers > 1):
        found.append("activations of this family's vision tower and of what joins it to the text are an upper estimate")
    if s.why_padded is not None:
        found.append(
            f"groups are not packed into one row ({s.why_padded}): every completion has a copy of its prompt's keys "
            "and values, which is not in the figures"
        )
    for role in s.roles:
        c, prompt = role.grpo, s.longest_prompt(role)
        longest = prompt + c.group_size * c.max_new_tokens
        if longest > c.tokens_per_micro_batch:
            answers = max(1, (c.tokens_per_micro_batch - prompt) // c.max_new_tokens)
            found.append(
                f"{role.name}: a group of the longest answers has {longest:,} tokens, above tokens_per_micro_batch="
                f"{c.tokens_per_micro_batch:,}; it is cut into {ceil(c.group_size / answers)} micro-batches, each of "
                "which reads the prompt again"
            )
    return found
