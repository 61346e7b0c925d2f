"""Seconds of a rollout, an update and a whole GRPO step: ours and TRL's, on the same model, images, G and T.

``ours`` packs a group into one row; ``fallback`` continues copies of the prompt's cache; ``padded`` gives every
completion a row of its own with its own image; all three are the same learner on the same made-up completions.
TRL's trainer is as fast as its settings let it be (``benchmarks.trl_trainer``). Ours and TRL's whole steps are real
ones: sampling through transformers, rewards, update. All rounds alternate.

Figures: ``rows``, for each way the seconds of its stages; ``shape``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Spread, alternate
from benchmarks.models import make_policy
from benchmarks.results import make_parser, parse, publish
from benchmarks.trl_trainer import TRLSettings, TRLStep
from benchmarks.workload import (
    DTYPES,
    PaddedRows,
    SharedCache,
    Size,
    add_size,
    autocast,
    ban_stops,
    in_way,
    make_batch,
    make_images,
    make_update,
    read_size,
)
from visplay.callbacks import TransformersRollout
from visplay.modules import GRPOConfig, Qwen2_5_VL, Reasoner
from visplay.modules.learner.mismatch import MismatchConfig
from visplay.tiny import ANSWER
from visplay.types import Example

QUESTION = "How many circles?"
STAGES = "rollout", "update", "step"

Part = tuple[str, str]
"""Way and stage."""


def our_parts(policy: Qwen2_5_VL, size: Size, dtype: torch.dtype) -> dict[Part, Callable[[], object]]:
    """Updates in three ways, and a Reasoner's rollout and step."""
    batch = make_batch(policy, size)
    ways = {"ours": policy, "fallback": in_way(policy, SharedCache), "padded": in_way(policy, PaddedRows)}
    config = GRPOConfig(
        prompts_per_step=size.prompts,
        prompts_per_update=None,
        group_size=size.group,
        max_new_tokens=size.tokens,
        kl_weight=0.0,
        mismatch=MismatchConfig(stop=False),
    )
    reasoner = Reasoner(config, ANSWER, vlm=policy)
    reasoner.attach_engine(TransformersRollout())
    optimizer = reasoner.make_optimizer()
    examples = [Example(str(i), p, QUESTION, "3") for i, p in enumerate(make_images(size.prompts, size.side))]

    def rollout() -> object:
        with autocast(policy, dtype):
            return reasoner.rollout(examples, size.group, seed=0)

    def step() -> object:
        with autocast(policy, dtype):
            return reasoner.learner.step(reasoner, examples, optimizer, lambda loss: loss.backward(), seed=0)

    updates = {(name, "update"): make_update(way, batch, dtype) for name, way in ways.items()}
    return {("ours", "rollout"): rollout, ("ours", "step"): step, **updates}


def trl_parts(policy: Qwen2_5_VL, size: Size, dtype: torch.dtype, directory: Path) -> dict[Part, Callable[[], object]]:
    """Rollout, update and step of TRL's trainer.

    Raises:
        RuntimeError: TRL's prompts are not ours.
    """
    images, questions = make_images(size.prompts, size.side), [QUESTION] * size.prompts
    precision = "float32" if dtype == torch.float32 else "bf16-mixed"
    settings = TRLSettings(size.group, size.tokens, None, precision, tuple(policy.banned_token_ids.tolist()))
    theirs = TRLStep(Path(policy.path), directory / "trl", questions, images, settings)
    inputs = theirs.rollout()
    prompts = [policy.encode(str(i), ANSWER, image, question=QUESTION) for i, image in enumerate(images)]
    ours = policy.collate(prompts).input_ids.repeat_interleave(size.group, 0)
    if not ours.equal(inputs["prompt_ids"].to(ours.device)):
        raise RuntimeError(f"TRL's prompts {tuple(inputs['prompt_ids'].shape)} differ from ours {tuple(ours.shape)}")
    stages = theirs.rollout, lambda: theirs.update(inputs), theirs.step
    return {("TRL", stage): run for stage, run in zip(STAGES, stages, strict=True)}


def measure(options: argparse.Namespace, dtype: str) -> dict[str, Any]:
    """All figures of one precision."""
    size = read_size(options)
    with tempfile.TemporaryDirectory() as name:
        policy = make_policy(options.model, Path(name), "cuda" if torch.cuda.is_available() else "cpu").train()
        ban_stops(policy)
        parts = our_parts(policy, size, DTYPES[dtype]) | trl_parts(policy, size, DTYPES[dtype], Path(name))
        seconds = alternate(parts, options.rounds)
        prompt = policy.encode("", ANSWER, make_images(1, size.side)[0], question=QUESTION)
        tokens = {"P": policy.prompt_tokens(prompt), "G": size.group, "T": size.tokens}
    rows: dict[str, dict[str, Spread]] = {}
    for (way, stage), spread in seconds.items():
        rows.setdefault(way, {})[stage] = spread
    return {"rows": rows, "shape": {"model": options.model, "prompts": size.prompts} | tokens | {"dtype": dtype}}


def speedups(figures: dict[str, Any]) -> dict[str, float]:
    """The headline keys."""
    median = {(way, stage): spread.median for way, row in figures["rows"].items() for stage, spread in row.items()}
    return {
        "update_speedup_vs_trl": median["TRL", "update"] / median["ours", "update"],
        "step_speedup_vs_trl": median["TRL", "step"] / median["ours", "step"],
        "update_speedup_vs_padded": median["padded", "update"] / median["ours", "update"],
    }


def main() -> None:
    """Measure, print, and record where it is asked for; keys and section of float32 say so in their names."""
    parser = make_parser(__doc__)
    add_size(parser, prompts=1)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), help="to compute in")
    options = parse(parser)
    for dtype in options.dtypes:
        figures, suffix = measure(options, dtype), "" if dtype == "bfloat16" else f"_{dtype}"
        keys = {f"{name}{suffix}": value for name, value in speedups(figures).items()}
        publish(f"step{suffix}", figures, keys, options)


if __name__ == "__main__":
    main()
