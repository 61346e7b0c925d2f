"""What a step did when it was recorded against what it does now, bit by bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor

from visplay.callbacks.records.step_trace import StepTrace, bits

_SHOWN_CHARACTERS = 80


class Comparison(NamedTuple):
    """One kind of thing in two traces.

    Args:
        what: Its name.
        compared: How many there are in either.
        differing: How many of them differ.
        first: Where the first difference is, and both values; None where all are equal.
    """

    what: str
    compared: int
    differing: int
    first: str | None


def compare_traces(recorded: StepTrace, now: StepTrace, *, judging: bool = False) -> list[Comparison]:
    """Compare from what is asked to the weights after the update: the first that differs is where to look.

    Args:
        recorded: What was recorded.
        now: What was done again.
        judging: Whether no update was made.
    """
    kinds = {
        "prompts and sampling": _prompts,
        "texts of completions": _texts,
        "grades": lambda trace: {f"grade {n}": grade._asdict() for n, grade in enumerate(trace.grades)},
        "rewards and votes": _judged,
        "statistics of the judgement": lambda trace: trace.judging,
    }
    if not judging:
        kinds |= {
            "batch": lambda trace: trace.batch,
            "statistics of the update": lambda trace: trace.update,
            "weights and optimizer after it": lambda trace: trace.after,
        }
    return [compare(what, of(recorded), of(now)) for what, of in kinds.items()]


def compare(what: str, recorded: Mapping[str, Any], now: Mapping[str, Any]) -> Comparison:
    """Compare values by name.

    Example:
        >>> compare("rewards", {"a": [1.0, 2.0], "b": [0.0]}, {"a": [1.0, 2.5], "b": [0.0]})
        Comparison(what='rewards', compared=2, differing=1, first='a[1]: 2.0 in the record, 2.5 now')
    """
    names = list(dict.fromkeys([*recorded, *now]))
    found = [(name, difference(recorded.get(name), now.get(name))) for name in names]
    differing = [f"{name}{where}" for name, where in found if where is not None]
    return Comparison(what, len(names), len(differing), differing[0] if differing else None)


def difference(recorded: Any, now: Any) -> str | None:
    """Where two values differ first, and how; None where they are equal bit by bit."""
    if isinstance(recorded, Tensor) and isinstance(now, Tensor):
        return _tensor_difference(recorded, now)
    pairs: list[tuple[str, Any, Any]] = []
    if isinstance(recorded, Mapping) and isinstance(now, Mapping):
        pairs = [(f".{name}", recorded.get(name), now.get(name)) for name in dict.fromkeys([*recorded, *now])]
    elif _is_list(recorded) and _is_list(now) and len(recorded) == len(now):
        pairs = [(f"[{i}]", *pair) for i, pair in enumerate(zip(recorded, now, strict=True))]
    elif recorded != now:
        return f": {_short(recorded)} in the record, {_short(now)} now"
    return next((f"{name}{found}" for name, *pair in pairs if (found := difference(*pair)) is not None), None)


def _tensor_difference(recorded: Tensor, now: Tensor) -> str | None:
    if recorded.dtype != now.dtype or recorded.shape != now.shape:
        kinds = [f"{str(each.dtype).removeprefix('torch.')} {tuple(each.shape)}" for each in (recorded, now)]
        return f": {kinds[0]} in the record, {kinds[1]} now"
    differing = (bits(recorded) != bits(now)).view(-1, recorded.element_size()).any(-1)
    if not bool(differing.any()):
        return None
    index = torch.unravel_index(differing.nonzero()[0, 0], recorded.shape)
    where = ", ".join(str(int(i)) for i in index)
    return f"[{where}]: {recorded[index].item()!r} in the record, {now[index].item()!r} now"


def _prompts(trace: StepTrace) -> dict[str, Any]:
    return {
        f"call {number}, {prompt.key!r}": {
            "policy": call.policy,
            "sampling": asdict(call.sampling),
            "token_ids": prompt.token_ids,
            "opened": prompt.opened,
        }
        for number, call in enumerate(trace.calls)
        for prompt in call.prompts
    }


def _texts(trace: StepTrace) -> dict[str, str]:
    return {
        f"call {number}, {prompt.key!r}, completion {g}": completion.text
        for number, call in enumerate(trace.calls)
        for prompt, group in zip(call.prompts, call.completions, strict=True)
        for g, completion in enumerate(group)
    }


def _judged(trace: StepTrace) -> dict[str, Any]:
    lines = enumerate(trace.judged, start=1)
    return {f"line {n}, {line['key']!r}, completion {line['completion']}": line for n, line in lines}


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _short(value: Any) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
