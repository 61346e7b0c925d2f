"""The README that lies beside the base model's weights."""

from __future__ import annotations

from collections.abc import Mapping

from visplay.tiny.cold_start.curriculum import CARELESS_SHARE, LISTED_SHARE
from visplay.tiny.cold_start.evaluate import VOTES

_REPORT = """\
# Base model of the small world

A Qwen2.5-VL of 1.3 million parameters, trained from scratch on a procedural world of shapes on a 4x4 grid by

    python -m visplay.tiny.cold_start --seed {seed}

which took {seconds:.0f} s on one thread. The last stage made it careless on purpose: {listed:.0%} of the answers it was
shown list the cells that matter first and are true; the others answer at once, and {careless:.0%} of those are random.
So it can do better than it usually does, and its vote is better than its single answers: head-room for self-play.

Accuracy of greedy answers, of single answers sampled at T = 1, and of the majority of {votes} of them:

| split | greedy | sampled | majority | share that lists first |
|---|---|---|---|---|
{rows}

Of its sampled questions {valid:.1%} have the required format and {in_grammar:.1%} are of the small world's grammar.
"""


def write_report(seed: int, seconds: float, measured: Mapping[str, Mapping[str, float]]) -> str:
    """Write the README of a base model.

    Args:
        seed: Seed of the cold start.
        seconds: What the training took.
        measured: What ``visplay.tiny.cold_start.evaluate.measure`` returned.

    Returns:
        Markdown.
    """
    splits = {name: values for name, values in measured.items() if name != "questions"}
    return _REPORT.format(
        seed=seed,
        seconds=seconds,
        listed=LISTED_SHARE,
        careless=CARELESS_SHARE,
        votes=VOTES,
        rows="\n".join(_row(name, values) for name, values in splits.items()),
        **measured["questions"],
    )


def _row(name: str, values: Mapping[str, float]) -> str:
    columns = (values[key] for key in ("greedy", "sampled", "majority", "listed"))
    return " | ".join((f"| {name}", *(f"{value:.3f}" for value in columns))) + " |"
