"""One update of a policy to be measured again and again: the learner's own, on a rollout that is made up."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.optim import AdamW, Optimizer

from benchmarks.models import SHAPES
from visplay.clock import Clock
from visplay.functional import group_advantages
from visplay.modules import GRPOConfig, Qwen2_5_VL
from visplay.modules.learner.group_batch import GroupBatch
from visplay.modules.learner.grpo import GRPO
from visplay.modules.learner.mismatch import MismatchConfig
from visplay.tiny import ANSWER
from visplay.types import Completion, Prompt, Rollout

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Size:
    """How much an update learns from.

    Args:
        prompts: N, each about an image of its own.
        group: G, answers to each.
        tokens: T, tokens of an answer; all are of one length.
        side: Side of a square image, pixels.
    """

    prompts: int
    group: int
    tokens: int
    side: int


def add_size(parser: argparse.ArgumentParser, prompts: int) -> None:
    """Give a parser the arguments ``--model``, ``--prompts`` with a default, ``--group`` and ``--tokens``."""
    parser.add_argument("--model", choices=SHAPES, default="20m")
    parser.add_argument("--prompts", type=int, default=prompts, help="N")
    parser.add_argument("--group", type=int, default=8, help="G")
    parser.add_argument("--tokens", type=int, default=64, help="T")


def read_size(options: argparse.Namespace) -> Size:
    """What the arguments of ``add_size`` say."""
    return Size(options.prompts, options.group, options.tokens, SHAPES[options.model].side)


def make_images(count: int, side: int) -> list[Image.Image]:
    """Square images of noise."""
    noise = np.random.default_rng(count)
    return [Image.fromarray(noise.integers(0, 255, (side, side, 3), dtype=np.uint8)) for _ in range(count)]


def make_prompts(policy: Qwen2_5_VL, size: Size) -> list[Prompt]:
    """A question about each image."""
    images = make_images(size.prompts, size.side)
    return [policy.encode(str(i), ANSWER, image, question="How many circles?") for i, image in enumerate(images)]


def make_batch(policy: Qwen2_5_VL, size: Size) -> GroupBatch:
    """Answers of random words, with advantages, as the mini-batch of one update."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 400, (size.prompts, size.group, size.tokens), generator=draw)  # below all control tokens
    logps = (-1.0,) * size.tokens
    groups = tuple(tuple(Completion(tuple(row), logps, "", True) for row in group) for group in ids.tolist())
    prompts = tuple(make_prompts(policy, size))
    lengths = [policy.prompt_tokens(prompt) for prompt in prompts]
    batch = GroupBatch.collate(Rollout(prompts, groups), lengths, policy.device)
    rewards = torch.rand(size.prompts, size.group, generator=draw)
    (mini,) = batch.with_advantages(group_advantages(rewards)).split(None)
    return mini


def make_optimizer(policy: Qwen2_5_VL) -> Optimizer:
    """AdamW that leaves the weights as they are, so that every update does the same work."""
    return AdamW([p for p in policy.parameters() if p.requires_grad], lr=0.0, weight_decay=0.0, fused=True)


def make_update(
    policy: Qwen2_5_VL,
    batch: GroupBatch,
    dtype: torch.dtype,
    tokens_per_micro_batch: int = GRPOConfig.tokens_per_micro_batch,
) -> Callable[[], dict[str, float]]:
    """The update: forward, loss, backward, clipping and the optimizer's step.

    Args:
        policy: Who learns.
        batch: From what; without a reference policy.
        dtype: To compute in, by autocast where the weights are of another.
        tokens_per_micro_batch: See ``GRPOConfig``.
    """
    config = GRPOConfig(
        kl_weight=0.0, tokens_per_micro_batch=tokens_per_micro_batch, mismatch=MismatchConfig(stop=False)
    )
    learner, optimizer = GRPO(config, Clock()), make_optimizer(policy)

    def update() -> dict[str, float]:
        with autocast(policy, dtype):
            return learner._update(policy, batch, optimizer, lambda loss: loss.backward())

    return update


def autocast(policy: Qwen2_5_VL, dtype: torch.dtype) -> AbstractContextManager:
    """What computes in a precision, as the trainer's precision plugin does: cast weights are not kept."""
    if policy.model.dtype == dtype:
        return nullcontext()
    return torch.autocast(policy.device.type, dtype, cache_enabled=False)
