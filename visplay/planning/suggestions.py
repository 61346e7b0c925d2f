"""Which setting to change, and to what, where something does not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from visplay.planning.plan import Plan, Problem, make_plan
from visplay.planning.settings import Settings

_DEVICES = (2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Change:
    """One setting at another value.

    Args:
        setting: Its key.
        value: As it is written on the command line.
        settings: The plan's, with it.
    """

    setting: str
    value: str
    settings: Settings

    def __str__(self) -> str:
        spaced = " " in self.setting.partition("=")[0]
        return f"{self.setting} {self.value}" if spaced else f"--{self.setting}={self.value}"


Option = Callable[[Settings], Iterator[Change]]
"""Values of one setting, from the nearest to the present one to the farthest."""


def suggestions(plan: Plan, problem: Problem) -> list[tuple[Change, ...]]:
    """Changes of which each alone makes a problem go away; without any, several that do together, or more devices.

    Returns:
        At most three; none where nothing here helps.
    """
    options = _options(problem)
    singles = [change for option in options if (change := _first(option(plan.settings), problem))]
    devices = _first(_devices(plan.settings), problem)
    ways: list[tuple[Change, ...]] = [(change,) for change in singles[:2]]
    ways = ways or _fewest(plan.settings, problem, options)
    if devices is not None:
        ways.append((devices,))
    return ways or _fewest(plan.settings, problem, (*options, _devices))


def _fewest(settings: Settings, problem: Problem, options: Sequence[Option]) -> list[tuple[Change, ...]]:
    found = _together(settings, problem, options)
    return [_prune(settings, problem, options, found)] if found else []


def _first(changes: Iterator[Change], problem: Problem) -> Change | None:
    return next((change for change in changes if _solves(change.settings, problem)), None)


def _solves(settings: Settings, problem: Problem) -> bool:
    return all(left.kind != problem.kind for left in make_plan(settings).problems)


def _together(settings: Settings, problem: Problem, options: Sequence[Option]) -> tuple[Change, ...]:
    """Each setting as far as it goes, in the order of the options, until the problem is gone; nothing if it stays."""
    taken: list[Change] = []
    for option in options:
        change = _first(option(settings), problem)
        if change is not None:
            return (*taken, change)
        for farthest in list(option(settings))[-1:]:
            taken.append(farthest)
            settings = farthest.settings
    return ()


def _prune(
    settings: Settings, problem: Problem, options: Sequence[Option], found: tuple[Change, ...]
) -> tuple[Change, ...]:
    """Leave out what the others do without."""
    for left_out in options:
        fewer = [option for option in options if option is not left_out]
        changes = _together(settings, problem, fewer)
        if changes and len(changes) < len(found):
            return _prune(settings, problem, fewer, changes)
    return found


def _options(problem: Problem) -> Sequence[Option]:
    if problem.kind == "context":
        return (_context, _max_pixels, _max_new_tokens)
    if problem.kind == "disk":
        return (_checkpoints, _low_rank)
    if problem.kind == "cache":
        return (_gpu_memory_utilization_up, _context_down, _max_pixels)
    if problem.kind.endswith("update"):
        return (_checkpointing, _low_rank, _micro_batch, _no_reference, _max_new_tokens, _max_pixels, _sleep)
    if problem.kind == "host":
        return (_low_rank, _no_reference)
    return (_gpu_memory_utilization, _max_sequences, _low_rank, _no_reference)


def _checkpointing(settings: Settings) -> Iterator[Change]:
    if not settings.checkpointed:
        yield Change(
            "model.init_args.vlm.init_args.gradient_checkpointing", "true", replace(settings, checkpointed=True)
        )


def _low_rank(settings: Settings) -> Iterator[Change]:
    if settings.low_rank is not None:
        changed = replace(settings, shape=settings.low_rank, low_rank=None)
        yield Change("config", "configs/lora.yaml", changed)


def _micro_batch(settings: Settings) -> Iterator[Change]:
    yield from _grpo(settings, "tokens_per_micro_batch", 1024)


def _max_new_tokens(settings: Settings) -> Iterator[Change]:
    yield from _grpo(settings, "max_new_tokens", 256)


def _grpo(settings: Settings, name: str, least: int) -> Iterator[Change]:
    """A setting of every role's learner, halved again and again."""
    value = max(getattr(role.grpo, name) for role in settings.roles) // 2
    while value >= least:
        yield _in_roles(settings, name, value)
        value //= 2


def _no_reference(settings: Settings) -> Iterator[Change]:
    if settings.reference:
        yield _in_roles(settings, "kl_weight", 0.0)


def _in_roles(settings: Settings, name: str, value: Any) -> Change:
    """A learner's setting in all roles that have more."""
    more = [role for role in settings.roles if getattr(role.grpo, name) > value]
    roles = tuple(
        replace(role, grpo=replace(role.grpo, **{name: value})) if role in more else role for role in settings.roles
    )
    alone = len(settings.roles) == 1
    keys = ["model.init_args.grpo" if alone else f"model.init_args.{role.name}.init_args.grpo" for role in more]
    setting = f"={value} --".join(f"{key}.{name}" for key in keys)
    return Change(setting, str(value), replace(settings, roles=roles))


def _max_pixels(settings: Settings) -> Iterator[Change]:
    pixels = settings.image.most_pixels // 2
    while pixels >= settings.image.least_pixels and not settings.image.tiled:
        image = replace(settings.image, most_pixels=pixels)
        yield Change("model.init_args.vlm.init_args.max_pixels", str(pixels), replace(settings, image=image))
        pixels //= 2


def _context(settings: Settings) -> Iterator[Change]:
    needed = max(
        settings.image.most_tokens + role.template_tokens + role.grpo.max_new_tokens for role in settings.roles
    )
    tokens = -(-needed // 1024) * 1024
    yield Change("model.init_args.vlm.init_args.max_context_tokens", str(tokens), _with_context(settings, tokens))


def _context_down(settings: Settings) -> Iterator[Change]:
    tokens = settings.context_tokens // 2
    while tokens > settings.image.most_tokens:
        yield Change("model.init_args.vlm.init_args.max_context_tokens", str(tokens), _with_context(settings, tokens))
        tokens //= 2


def _with_context(settings: Settings, tokens: int) -> Settings:
    return replace(settings, context_tokens=tokens)


def _gpu_memory_utilization(settings: Settings) -> Iterator[Change]:
    if settings.engine.kind == "vllm":
        yield from _fractions(settings, [n / 20 for n in range(19, 1, -1)], larger=False)


def _gpu_memory_utilization_up(settings: Settings) -> Iterator[Change]:
    if settings.engine.kind == "vllm" and settings.engine.settings.cache_gib is None:
        yield from _fractions(settings, [n / 20 for n in range(2, 20)], larger=True)


def _fractions(settings: Settings, shares: Sequence[float], larger: bool) -> Iterator[Change]:
    """Shares that leave room for one sequence at least."""
    now = settings.engine.settings.gpu_memory_utilization
    for share in shares:
        if share == now or (share > now) != larger:
            continue
        engine = replace(settings.engine, settings=replace(settings.engine.settings, gpu_memory_utilization=share))
        changed = replace(settings, engine=engine)
        if all(problem.kind != "cache" for problem in make_plan(changed).problems):
            yield Change("rollout.init_args.engine.gpu_memory_utilization", str(share), changed)


def _max_sequences(settings: Settings) -> Iterator[Change]:
    value = settings.engine.max_sequences // 2
    while settings.engine.kind == "transformers" and value >= 1:
        yield Change(
            "rollout.init_args.max_sequences",
            str(value),
            replace(settings, engine=replace(settings.engine, max_sequences=value)),
        )
        value //= 2


def _sleep(settings: Settings) -> Iterator[Change]:
    if settings.engine.kind == "vllm" and not settings.engine.sleeps:
        engine = replace(settings.engine, sleeps=True)
        yield Change("rollout.init_args.sleep_in_update", "true", replace(settings, engine=engine))


def _devices(settings: Settings) -> Iterator[Change]:
    if settings.device.kind == "cuda":
        for count in _DEVICES:
            if count > settings.device.shards:
                device = replace(settings.device, count=count, sharded=True)
                yield Change("trainer.strategy=fsdp --trainer.devices", str(count), replace(settings, device=device))


def _checkpoints(settings: Settings) -> Iterator[Change]:
    if settings.kept_checkpoints != 1:  # without a measure to choose by, Lightning keeps all or the last
        yield Change("ModelCheckpoint's save_top_k", "1", replace(settings, kept_checkpoints=1))
