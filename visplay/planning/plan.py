"""A run's plan: memory of every stage on one device, and what does not fit."""

from __future__ import annotations

from dataclasses import dataclass

from visplay.planning.memory import Micro, Training
from visplay.planning.quantities import disk_bytes, host_bytes
from visplay.planning.rollout import Cache, engine_bytes, longest_prompt
from visplay.planning.settings import RolePlan, Settings
from visplay.planning.stages import Bytes, Residents, phase, policies, score, update


@dataclass(frozen=True)
class Problem:
    """Something that does not fit.

    Args:
        kind: Of what: "context", "cache", "disk", "host", or the stage whose memory it is.
        text: In words, with both numbers.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class Plan:
    """What a run needs.

    Args:
        settings: What it was made from.
        stages: Bytes on one device at each stage's peak, by what they are for.
        cache: The engine's cache; None where the engine runs elsewhere.
        problems: What does not fit; empty where all does.
    """

    settings: Settings
    stages: dict[str, Bytes]
    cache: Cache | None
    problems: tuple[Problem, ...]

    def peak(self, stage: str) -> int:
        """Bytes of a stage's peak."""
        return sum(self.stages[stage].values())


def make_plan(settings: Settings) -> Plan:
    """Plan a run; nothing is loaded or computed."""
    engine, cache = engine_bytes(settings)
    stages: dict[str, Bytes] = {}
    for role in settings.roles:
        training = _training(settings, role)
        copied = _residents(settings, role, samples_idle=role.name == "questioner")
        stages[f"{role.name}: rollout"] = phase(settings.shape, training, copied) | engine
        stages[f"{role.name}: update"] = _learning(settings, role, training)
        if settings.engine.kind == "vllm" and not settings.engine.sleeps:
            stages[f"{role.name}: update"] |= engine
    if settings.curation is not None:
        stages["curation"] = policies(settings.shape, _residents(settings, samples_idle=True)) | engine
    problems = [*_context_problems(settings), *_cache_problems(settings, cache)]
    problems += _memory_problems(settings, stages) + _host_problems(settings) + _disk_problems(settings)
    return Plan(settings, stages, cache, tuple(problems))


def _learning(settings: Settings, role: RolePlan, training: Training) -> Bytes:
    """An update, or the scoring in front of it where that needs more."""
    micros = micro_batches(settings, role)
    changes = update(settings.shape, training, _residents(settings, role), micros)
    if not (settings.hosts_reference and role.reference):
        return changes
    scores = score(settings.shape, training, _residents(settings, role, scores=True), micros)
    return max(changes, scores, key=lambda parts: sum(parts.values()))


def micro_batches(settings: Settings, role: RolePlan) -> tuple[Micro, ...]:
    """The largest micro-batches: one of the longest answers, and one of as many images as there is room for.

    Of a group that is longer than ``tokens_per_micro_batch`` as many answers as there is room for, one at least.
    """
    c, image = role.grpo, settings.image
    patches = image.most_patches(settings.shape.patches_per_token)
    prompt = min(longest_prompt(settings, role) + role.asks_of, max(settings.context_tokens - c.max_new_tokens, 1))
    answers = c.group_size * c.max_new_tokens
    groups = c.tokens_per_micro_batch // (prompt + answers)
    if groups == 0:
        rows = max(c.tokens_per_micro_batch - prompt, c.max_new_tokens)
        long = Micro(prompt + rows - rows // c.max_new_tokens, rows, patches)
    else:
        long = Micro(groups * (prompt + answers - c.group_size), groups * answers, groups * patches)
    most = min(c.tokens_per_micro_batch // (prompt + c.group_size), role.prompts_per_update)
    if most <= max(groups, 1):
        return (long,)
    tokens = min(c.tokens_per_micro_batch, most * (prompt + answers))
    return long, Micro(tokens, tokens - most * prompt, most * patches)


def _training(settings: Settings, role: RolePlan) -> Training:
    longest = longest_prompt(settings, role) + role.grpo.group_size * role.grpo.max_new_tokens
    several = role.prompts_per_update * longest > role.grpo.tokens_per_micro_batch
    return Training(settings.precision, settings.checkpointed, several, settings.frozen, role.grpo.entropy_weight > 0)


def _residents(
    settings: Settings, role: RolePlan | None = None, *, samples_idle: bool = False, scores: bool = False
) -> Residents:
    """What lies on the device; a whole policy that lies on the host comes while it is sampled from, or scores.

    The engine of vLLM has a copy of its own, to which weights go one after another.
    """
    samples_idle = samples_idle and settings.engine.kind == "transformers"
    idle = settings.idle_weights if samples_idle or not settings.hosts_idle else 0
    there = scores or not settings.hosts_reference
    reference = settings.reference_weights(role) if role is not None and there else 0
    return Residents(settings.device.process, idle, reference, settings.device.shards)


def _context_problems(settings: Settings) -> list[Problem]:
    found = []
    for role in settings.roles:
        prompt, longest = longest_prompt(settings, role), role.grpo.max_new_tokens
        if prompt + longest > settings.context_tokens:
            found.append(
                Problem(
                    "context",
                    f"{role.name}: the largest image's {settings.image.most_tokens:,} tokens, the prompt's "
                    f"{role.template_tokens:,} and an answer of {longest:,} are {prompt + longest:,}, above the "
                    f"context of {settings.context_tokens:,}",
                )
            )
    return found


def _cache_problems(settings: Settings, cache: Cache | None) -> list[Problem]:
    if cache is None or cache.sequences >= 1:
        return []
    one = cache.token_bytes * cache.sequence_tokens
    room = f"is {gib(cache.total)}" if cache.total > 0 else f"has no room ({gib(-cache.total)} are missing)"
    return [Problem("cache", f"the key-value cache {room}; one sequence of full length takes {gib(one)}")]


def _memory_problems(settings: Settings, stages: dict[str, Bytes]) -> list[Problem]:
    memory = settings.device.memory
    return [
        Problem(stage, f"{stage}: {gib(sum(parts.values()))} of {gib(memory)}")
        for stage, parts in stages.items()
        if sum(parts.values()) > memory
    ]


def _host_problems(settings: Settings) -> list[Problem]:
    needed, there = sum(host_bytes(settings).values()), settings.device.host
    if there is None or needed <= there:
        return []
    return [Problem("host", f"policies that lie in the host's memory take {gib(needed)} of {gib(there)}")]


def _disk_problems(settings: Settings) -> list[Problem]:
    needed, free = sum(disk_bytes(settings).values()), settings.device.disk
    if free is None or needed <= free:
        return []
    return [Problem("disk", f"a whole run writes {gib(needed)}, and {gib(free)} are free")]


def gib(size: float) -> str:
    """Bytes as people read them.

    Example:
        >>> gib(3 * 2**29)
        '1.5 GiB'
    """
    return f"{size / 2**30:,.1f} GiB" if abs(size) >= 2**30 / 10 else f"{size / 2**20:,.1f} MiB"
