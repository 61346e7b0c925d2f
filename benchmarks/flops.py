"""Floating-point operations that an update needs, by formula, and the most that a machine does in a second.

A product of (m, k) and (k, n) counts 2·m·k·n, and attention its two products over the pairs of tokens that may see each
other. The backward pass needs twice the forward pass, but for the patch embedding, whose input has no gradient.
Recomputation, normalisation, softmax, rotary positions and the optimizer do not count: it is the work that any
implementation has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import nn

from benchmarks.measure import ROUNDS, alternate
from visplay.modules import Qwen2_5_VL
from visplay.modules.learner.group_batch import GroupBatch


@dataclass(frozen=True)
class Work:
    """What one pass goes through.

    Args:
        text_tokens: Tokens that the language model reads, those of images included.
        text_pairs: Pairs of tokens that attend to each other in a layer of it.
        head_rows: Hidden states that become logits.
        grids: (time, height, width) patches of each image that the vision tower reads.
    """

    text_tokens: int
    text_pairs: int
    head_rows: int
    grids: Sequence[tuple[int, int, int]]


def packed_work(policy: Qwen2_5_VL, batch: GroupBatch) -> Work:
    """The least work of scoring a batch: each prompt and distinct image once, answers without padding, causal."""
    prompts = batch.prompt_tokens.tolist()
    lengths = batch.mask.sum(-1)
    read = (lengths - 1).clamp(min=0)
    across = sum(tokens * int(group.sum()) for tokens, group in zip(prompts, read, strict=True))
    within = sum(t * (t + 1) // 2 for t in [*prompts, *read.flatten().tolist()])
    images = list({id(image): image for prompt in batch.prompts for image in prompt.images}.values())
    grids = [tuple(grid) for grid in policy.process_images(images).grids.tolist()] if images else []
    return Work(sum(prompts) + int(read.sum()), across + within, int(lengths.sum()), grids)


def forward_flops(config: Any, work: Work) -> dict[str, int]:
    """Operations of one pass forward, by part.

    Args:
        config: A ``Qwen2_5_VLConfig``.
        work: What the pass goes through.
    """
    text, vision = config.text_config, config.vision_config
    return {
        "language model": 2 * work.text_tokens * text.num_hidden_layers * _text_weights(text),
        "attention": 4 * work.text_pairs * text.num_hidden_layers * text.hidden_size,
        "head": 2 * work.head_rows * text.vocab_size * text.hidden_size,
        "vision tower": sum(_vision_flops(vision, grid) for grid in work.grids),
        "patch embedding": sum(_patch_flops(vision, grid) for grid in work.grids),
    }


def update_flops(config: Any, work: Work) -> int:
    """Operations of one pass forward and back, all weights trained."""
    parts = forward_flops(config, work)
    return 3 * sum(parts.values()) - parts["patch embedding"]


def _text_weights(text: Any) -> int:
    """Weights of the matrices of a layer."""
    head = text.hidden_size // text.num_attention_heads
    attention = 2 * text.hidden_size * (text.hidden_size + head * text.num_key_value_heads)
    return attention + 3 * text.hidden_size * text.intermediate_size


def _vision_flops(vision: Any, grid: tuple[int, int, int]) -> int:
    """Of one image: blocks, and the merger of several patches into a token."""
    patches, width = grid[0] * grid[1] * grid[2], vision.hidden_size
    full = len(vision.fullatt_block_indexes)
    pairs = full * patches * grid[1] * grid[2] + (vision.depth - full) * _window_pairs(vision, grid)
    blocks = vision.depth * (4 * width**2 + 3 * width * vision.intermediate_size)
    merged = width * vision.spatial_merge_size**2
    merger = (patches // vision.spatial_merge_size**2) * merged * (merged + vision.out_hidden_size)
    return 2 * (patches * blocks + merger) + 4 * pairs * width


def _patch_flops(vision: Any, grid: tuple[int, int, int]) -> int:
    inputs = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return 2 * grid[0] * grid[1] * grid[2] * inputs * vision.hidden_size


def _window_pairs(vision: Any, grid: tuple[int, int, int]) -> int:
    """Pairs of patches that share a window; windows at the right and lower edge are smaller."""
    side, merge = vision.window_size // vision.patch_size, vision.spatial_merge_size
    side = side // merge * merge
    rows, columns = (_cut(patches, side) for patches in grid[1:])
    return grid[0] * sum((height * width) ** 2 for height, width in product(rows, columns))


def _cut(length: int, size: int) -> list[int]:
    return [min(size, length - start) for start in range(0, length, size)]


Product = tuple[int, int, int]
"""Rows, inner width and columns of a product."""


def model_products(model: Any, rows: int) -> list[Product]:
    """The products of a model's matrices with that many rows, each size once."""
    sizes = {(m.in_features, m.out_features) for m in model.modules() if isinstance(m, nn.Linear)}
    return sorted((rows, inner, columns) for inner, columns in sizes)


def measure_peak(
    products: Sequence[Product], dtype: torch.dtype, device: str, rounds: int = ROUNDS
) -> dict[str, float]:
    """Operations per second of each product, in its fastest round."""
    parts, least = {}, 2e13 if device == "cuda" else 5e8  # so that a round is not all overhead
    for rows, inner, columns in products:
        left = torch.randn(rows, inner, device=device, dtype=dtype)
        right = torch.randn(columns, inner, device=device, dtype=dtype)
        times = max(1, int(least / (2 * rows * inner * columns)))

        def multiply(left=left, right=right, times=times) -> None:
            for _ in range(times):
                nn.functional.linear(left, right)

        parts[rows, inner, columns, times] = multiply
    seconds = alternate(parts, rounds)
    return {
        f"{rows} x {inner} x {columns}": 2.0 * rows * inner * columns * times / seconds[rows, inner, columns, times].low
        for rows, inner, columns, times in parts
    }
