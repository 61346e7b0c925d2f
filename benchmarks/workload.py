"""What is measured: a learner's update on a made-up rollout, other ways to score it, and transformers' sampling."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.optim import AdamW

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
        group: G, completions of each.
        tokens: T, tokens of a completion; all are of one length.
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


def make_rollout(policy: Qwen2_5_VL, size: Size, draw: torch.Generator) -> Rollout:
    """Completions of random words about ``make_prompts``."""
    ids = torch.randint(1, 400, (size.prompts, size.group, size.tokens), generator=draw)  # below all control tokens
    logps = (-1.0,) * size.tokens
    groups = tuple(tuple(Completion(tuple(row), logps, "", True) for row in group) for group in ids.tolist())
    return Rollout(tuple(make_prompts(policy, size)), groups)


def make_batch(policy: Qwen2_5_VL, size: Size) -> GroupBatch:
    """A made-up rollout with advantages, as the mini-batch of one update."""
    draw = torch.Generator().manual_seed(0)
    rollout = make_rollout(policy, size, draw)
    batch = GroupBatch.collate(rollout, list(map(policy.prompt_tokens, rollout.prompts)), policy.device)
    rewards = torch.rand(size.prompts, size.group, generator=draw)
    (mini,) = replace(batch, advantages=group_advantages(rewards).to(policy.device)).mini_batches(None)
    return mini


def make_update(
    policy: Qwen2_5_VL, batch: GroupBatch, dtype: torch.dtype, micro_batch_tokens: int = 16384
) -> Callable[[], dict[str, float]]:
    """The update: forward, loss, backward, clipping and the optimizer's step, which leaves the weights as they are.

    Args:
        policy: Who learns.
        batch: From what; without a reference policy.
        dtype: To compute in, by autocast where the weights are of another.
        micro_batch_tokens: Most tokens of one forward and backward pass.
    """
    config = GRPOConfig(kl_weight=0.0, tokens_per_micro_batch=micro_batch_tokens, mismatch=MismatchConfig(stop=False))
    learner = GRPO(config, Clock())
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    optimizer = AdamW(weights, lr=0.0, weight_decay=0.0, fused=True)

    def update() -> dict[str, float]:
        with autocast(policy, dtype):
            return learner._update(policy, batch, optimizer, lambda loss: loss.backward())

    return update


def autocast(policy: Qwen2_5_VL, dtype: torch.dtype) -> AbstractContextManager:
    """What computes in a precision, as the trainer's precision plugin does: cast weights are not kept."""
    if policy.model.dtype == dtype:
        return nullcontext()
    return torch.autocast(policy.device.type, dtype, cache_enabled=False)


class SharedCache(Qwen2_5_VL):
    """The fallback: prompts are read once, and each completion continues from a copy of its prompt's cache."""

    def why_not_packed(self) -> str:
        """By choice."""
        return "it is measured without"


def _padded_rows(policy: Qwen2_5_VL, prompts: Sequence[Prompt], token_ids: Tensor, mask: Tensor) -> Tensor:
    group = token_ids.shape[1]
    batch = policy.collate(prompts)
    pixels = policy.process_images([image for prompt in prompts for image in prompt.images * group])
    rows = torch.arange(len(prompts), device=mask.device).repeat_interleave(group)
    input_ids = torch.cat([batch.input_ids[rows], token_ids.flatten(0, 1)], 1)
    hidden = policy.model.model(
        input_ids=input_ids,
        attention_mask=torch.cat([batch.mask[rows], mask.flatten(0, 1)], 1).long(),
        pixel_values=pixels.values.to(policy.device),
        image_grid_thw=pixels.grids.to(policy.device),
        mm_token_type_ids=(input_ids == policy.image_token_id).int(),
        use_cache=False,
    ).last_hidden_state
    tokens = token_ids.shape[2]
    return hidden[:, -tokens - 1 : -1].unflatten(0, (len(prompts), group))[mask]


class PaddedRows(Qwen2_5_VL):
    """A row of its own for every completion: prompt, image and all, as trainers do that share nothing."""

    hidden_states = staticmethod(_padded_rows)


def in_way(policy: Qwen2_5_VL, way: type[Qwen2_5_VL]) -> Qwen2_5_VL:
    """The policy, its weights included, scoring in another way."""
    other = copy.copy(policy)
    other.__class__ = way
    return other


@torch.no_grad()
def plain_generate(
    policy: Qwen2_5_VL, prompts: Sequence[Prompt], n: int, tokens: int, at_least: int = 0, temperature: float = 1.0
) -> Tensor:
    """Sample with ``generate(num_return_sequences=n)``, every prompt with an image of its own; at 0 greedily.

    Returns:
        (N * n, T) ids of the completions, padded on the right.
    """
    batch = policy.collate(prompts)
    pixels = policy.process_images([image for prompt in prompts for image in prompt.images])
    drawn = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    sampled = policy.model.generate(
        input_ids=batch.input_ids,
        attention_mask=batch.mask.long(),
        pixel_values=pixels.values.to(policy.device),
        image_grid_thw=pixels.grids.to(policy.device),
        mm_token_type_ids=(batch.input_ids == policy.image_token_id).int(),
        **drawn,
        num_return_sequences=n,
        min_new_tokens=at_least,
        max_new_tokens=tokens,
        suppress_tokens=policy.banned_token_ids.tolist(),
    )
    return sampled[:, batch.input_ids.shape[1] :]


def ban_stops(policy: Qwen2_5_VL) -> None:
    """Let no completion of a policy end by itself, so that all are as long as their limit."""
    stops = torch.tensor(policy.stop_token_ids, device=policy.device)
    policy.banned_token_ids = torch.cat([policy.banned_token_ids, stops])
