"""Which setting to change, and to what, where something does not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from visplay.planning.run_plan import Plan, Problem, make_plan
from visplay.planning.settings import Settings, TransformersPlan, VLLMPlan

_VLM = "model.init_args.vlm.init_args"


@dataclass(frozen=True)
class Change:
    """One setting at another value.

    Args:
        text: As it is written on the command line.
        settings: The plan's, with it.
    """

    text: str
    settings: Settings

    def __str__(self) -> str:
        return self.text


Option = Callable[[Settings], Iterator[Change]]
"""Values of one setting, from the nearest to the present one to the farthest."""


def suggestions(plan: Plan, problem: Problem) -> list[tuple[Change, ...]]:
    """Changes of which each alone makes a problem go away; without any, several that do together.

    Returns:
        At most two; none where nothing here helps.
    """
    options, kind = _options(problem.kind), problem.kind
    singles = [change for option in options if (change := _nearest(option(plan.settings), kind))]
    if singles:
        return [(change,) for change in singles[:2]]
    found = _together(plan.settings, kind, options)
    for option in options:  # leave out what the others do without
        fewer = [other for other in options if other is not option]
        shorter = _together(plan.settings, kind, fewer)
        if shorter and len(shorter) < len(found):
            options, found = fewer, shorter
    return [found] if found else []


def _nearest(changes: Iterator[Change], kind: str) -> Change | None:
    """The first change after which there is no problem of that kind."""
    return next((c for c in changes if all(left.kind != kind for left in make_plan(c.settings).problems)), None)


def _together(settings: Settings, kind: str, options: Sequence[Option]) -> tuple[Change, ...]:
    """Each setting as far as it goes, in the order of the options, until the problem is gone; nothing if it stays."""
    taken: list[Change] = []
    for option in options:
        if (change := _nearest(option(settings), kind)) is not None:
            return (*taken, change)
        for farthest in list(option(settings))[-1:]:
            taken.append(farthest)
            settings = farthest.settings
    return ()


def _options(kind: str) -> Sequence[Option]:
    if kind.endswith("update"):
        return (_checkpointing, _lora, _micro_batch, _no_reference, _max_new_tokens, _max_pixels, _sleep)
    known: dict[str, Sequence[Option]] = {
        "context": (_context, _max_pixels, _max_new_tokens),
        "disk": (_checkpoints, _lora, _no_step_checkpoints),
        "cache": (_more_of_the_gpu, _shorter_context, _max_pixels),
        "host": (_lora, _no_reference),
    }
    return known.get(kind, (_less_of_the_gpu, _max_sequences, _lora, _no_reference))


def _halved(value: int, least: int) -> Iterator[int]:
    """A value halved again and again, down to the least."""
    while (value := value // 2) >= least:
        yield value


def _checkpointing(settings: Settings) -> Iterator[Change]:
    if not settings.checkpointed and settings.why_padded is None:
        yield Change(f"--{_VLM}.gradient_checkpointing=true", replace(settings, checkpointed=True))


def _lora(settings: Settings) -> Iterator[Change]:
    if settings.with_adapters is not None:
        changed = replace(settings, shape=settings.with_adapters, with_adapters=None)
        yield Change("--config=lora", changed)


def _micro_batch(settings: Settings) -> Iterator[Change]:
    most = max(role.grpo.tokens_per_micro_batch for role in settings.roles)
    return (_in_roles(settings, "tokens_per_micro_batch", value) for value in _halved(most, 1024))


def _max_new_tokens(settings: Settings) -> Iterator[Change]:
    most = max(role.grpo.max_new_tokens for role in settings.roles)
    return (_in_roles(settings, "max_new_tokens", value) for value in _halved(most, 256))


def _no_reference(settings: Settings) -> Iterator[Change]:
    if any(role.reference for role in settings.roles):
        yield _in_roles(settings, "kl_weight", 0.0)


def _in_roles(settings: Settings, name: str, value: Any) -> Change:
    """A learner's setting in all roles that have more."""
    more = [role for role in settings.roles if getattr(role.grpo, name) > value]
    roles = tuple(
        replace(role, grpo=replace(role.grpo, **{name: value})) if role in more else role for role in settings.roles
    )
    alone = len(settings.roles) == 1
    keys = ["model.init_args.grpo" if alone else f"model.init_args.{role.name}.init_args.grpo" for role in more]
    return Change(" ".join(f"--{key}.{name}={value}" for key in keys), replace(settings, roles=roles))


def _max_pixels(settings: Settings) -> Iterator[Change]:
    image = settings.image
    for pixels in () if image.tiled else _halved(image.most_pixels, image.least_pixels):
        yield Change(f"--{_VLM}.max_pixels={pixels}", replace(settings, image=replace(image, most_pixels=pixels)))


def _context(settings: Settings) -> Iterator[Change]:
    needed = max(settings.longest_prompt(role) + role.grpo.max_new_tokens for role in settings.roles)
    yield _with_context(settings, -(-needed // 1024) * 1024)


def _shorter_context(settings: Settings) -> Iterator[Change]:
    least = settings.image.most_tokens + 1
    return (_with_context(settings, tokens) for tokens in _halved(settings.context_tokens, least))


def _with_context(settings: Settings, tokens: int) -> Change:
    return Change(f"--{_VLM}.max_context_tokens={tokens}", replace(settings, context_tokens=tokens))


def _less_of_the_gpu(settings: Settings) -> Iterator[Change]:
    if isinstance(settings.engine, VLLMPlan):
        now = settings.engine.settings.gpu_memory_utilization
        yield from _of_the_gpu(settings, settings.engine, [n / 20 for n in range(19, 1, -1) if n / 20 < now])


def _more_of_the_gpu(settings: Settings) -> Iterator[Change]:
    if isinstance(settings.engine, VLLMPlan) and settings.engine.settings.cache_gib is None:
        now = settings.engine.settings.gpu_memory_utilization
        yield from _of_the_gpu(settings, settings.engine, [n / 20 for n in range(2, 20) if n / 20 > now])


def _of_the_gpu(settings: Settings, engine: VLLMPlan, fractions: Sequence[float]) -> Iterator[Change]:
    """Fractions that leave room for one sequence at least."""
    for fraction in fractions:
        given = replace(engine, settings=replace(engine.settings, gpu_memory_utilization=fraction))
        changed = replace(settings, engine=given)
        if all(problem.kind != "cache" for problem in make_plan(changed).problems):
            yield Change(f"--rollout.init_args.engine.gpu_memory_utilization={fraction}", changed)


def _max_sequences(settings: Settings) -> Iterator[Change]:
    if isinstance(settings.engine, TransformersPlan):
        for most in _halved(settings.engine.max_sequences, 1):
            changed = replace(settings, engine=TransformersPlan(most))
            yield Change(f"--rollout.init_args.max_sequences={most}", changed)


def _sleep(settings: Settings) -> Iterator[Change]:
    if isinstance(settings.engine, VLLMPlan) and not settings.engine.sleeps:
        engine = replace(settings.engine, sleeps=True)
        yield Change("--rollout.init_args.sleep_in_update=true", replace(settings, engine=engine))


def _checkpoints(settings: Settings) -> Iterator[Change]:
    if settings.kept_checkpoints != 1:  # without a metric to choose by, Lightning keeps all or the last
        yield Change("ModelCheckpoint's save_top_k 1", replace(settings, kept_checkpoints=1))


def _no_step_checkpoints(settings: Settings) -> Iterator[Change]:
    if settings.step_checkpoints:
        yield Change("--step_checkpoint=null", replace(settings, step_checkpoints=0))
