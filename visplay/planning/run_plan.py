"""A run's plan: memory of every stage on one device, and what does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from visplay.planning.amounts import disk_bytes, host_bytes
from visplay.planning.engine_memory import Cache, engine_bytes
from visplay.planning.memory import Bytes, Micro, Training, phase_bytes, policy_bytes, scoring_bytes, update_bytes
from visplay.planning.settings import RolePlan, Settings, VLLMPlan


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
    awake = isinstance(settings.engine, VLLMPlan) and not settings.engine.sleeps
    on_cpu = settings.device.kind == "cpu" and settings.health_copies
    copies = {"copies of Health": settings.health_bytes} if on_cpu else {}
    stages: dict[str, Bytes] = {}
    for role in settings.roles:
        c, longest = role.grpo, settings.longest_prompt(role) + role.grpo.group_size * role.grpo.max_new_tokens
        several = role.prompts_per_update * longest > c.tokens_per_micro_batch
        training = Training(settings.precision, settings.checkpointed, several, settings.frozen, c.entropy_weight > 0)
        rollout = settings.residents(role, samples_idle=role.name == "questioner")
        stages[f"{role.name}: rollout"] = phase_bytes(settings.shape, training, rollout) | copies | engine
        micros = micro_batches(settings, role)
        update = update_bytes(settings.shape, training, settings.residents(role), micros)
        if settings.offloads_reference and role.reference:  # the scoring before the update, where that needs more
            scores = scoring_bytes(settings.shape, training, settings.residents(role, scores=True), micros)
            update = max(update, scores, key=lambda parts: sum(parts.values()))
        stages[f"{role.name}: update"] = update | copies | (engine if awake else {})
    if settings.curation is not None:
        stages["curation"] = policy_bytes(settings.shape, settings.residents(samples_idle=True)) | engine
    return Plan(settings, stages, cache, tuple(_problems(settings, stages, cache)))


def micro_batches(settings: Settings, role: RolePlan) -> tuple[Micro, ...]:
    """The largest micro-batches: one of the longest completions, and one of as many images as there is room for.

    Of a group that is longer than ``tokens_per_micro_batch`` as many completions as there is room for, one at least.
    """
    c, patches = role.grpo, settings.image.most_patches(settings.shape.patches_per_token)
    prompt = settings.longest_prompt(role) + role.question_tokens
    prompt = min(prompt, max(settings.context_tokens - c.max_new_tokens, 1))
    answers = c.group_size * c.max_new_tokens
    groups = c.tokens_per_micro_batch // (prompt + answers)
    if groups == 0:
        scored = max(c.tokens_per_micro_batch - prompt, c.max_new_tokens)
        long = Micro(prompt + scored - scored // c.max_new_tokens, scored, patches)
    else:
        long = Micro(groups * (prompt + answers - c.group_size), groups * answers, groups * patches)
    most = min(c.tokens_per_micro_batch // (prompt + c.group_size), role.prompts_per_update)
    if most <= max(groups, 1):
        return (long,)
    tokens = min(c.tokens_per_micro_batch, most * (prompt + answers))
    return long, Micro(tokens, tokens - most * prompt, most * patches)


def _problems(settings: Settings, stages: dict[str, Bytes], cache: Cache | None) -> Iterator[Problem]:
    for role in settings.roles:
        answer = role.grpo.max_new_tokens
        if (longest := settings.longest_prompt(role) + answer) > settings.context_tokens:
            image = f"the largest image's {settings.image.most_tokens:,} tokens, " if settings.image.most_tokens else ""
            yield Problem(
                "context",
                f"{role.name}: {image}the prompt's {role.template_tokens:,} and an answer of {answer:,} are "
                f"{longest:,}, above the context of {settings.context_tokens:,}",
            )
    if cache is not None and cache.sequences < 1:
        one = cache.token_bytes * cache.sequence_tokens
        room = f"is {gib(cache.total)}" if cache.total > 0 else f"has no room ({gib(-cache.total)} are missing)"
        yield Problem("cache", f"the key-value cache {room}; one sequence of full length takes {gib(one)}")
    device = settings.device
    for stage, parts in stages.items():
        if (needed := sum(parts.values())) > device.memory:
            yield Problem(stage, f"{stage}: {gib(needed)} of {gib(device.memory)}")
    needed = sum(host_bytes(settings).values())
    if device.host is not None and needed > device.host:
        yield Problem("host", f"policies and copies in CPU memory take {gib(needed)} of {gib(device.host)}")
    needed = sum(disk_bytes(settings).values())
    if device.disk is not None and needed > device.disk:
        yield Problem("disk", f"a whole run writes {gib(needed)}, and {gib(device.disk)} are free")


def gib(size: float) -> str:
    """Bytes as people read them.

    Example:
        >>> gib(3 * 2**29)
        '1.5 GiB'
    """
    return f"{size / 2**30:,.1f} GiB" if abs(size) >= 2**30 / 10 else f"{size / 2**20:,.1f} MiB"
