"""Draw tokens from logits with given uniform numbers, so that a sample depends on its own seed alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def uniform_stream(seeds: Sequence[int], length: int) -> Tensor:
    """Uniform numbers in [0, 1), one row per seed; a row does not depend on the other seeds.

    Args:
        seeds: B non-negative 63-bit seeds.
        length: T numbers per seed.

    Returns:
        (B, T) float64.
    """
    rows = [np.random.Generator(np.random.Philox(key=seed)).random(length) for seed in seeds]
    return torch.from_numpy(np.stack(rows))


def truncate_logits(logits: Tensor, top_p: float = 1.0, top_k: int = 0) -> Tensor:
    """Exclude all but the ``top_k`` most probable tokens, then all beyond a total probability of ``top_p``.

    Args:
        logits: (B, V).
        top_p: In (0, 1]; 1 keeps all. The most probable token is always kept.
        top_k: 0 keeps all.

    Returns:
        (B, V) with excluded tokens at minus infinity.
    """
    if top_k > 0:
        least = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p < 1.0:
        ordered, order = logits.sort(descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        drop = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= top_p)
        logits = logits.masked_fill(drop, -torch.inf)
    return logits


def draw_tokens(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Draw one token per row by inverting the cumulative distribution, in float64.

    Args:
        logits: (B, V).
        uniforms: (B,) numbers in [0, 1).

    Returns:
        (B,) token ids; a token of probability 0 is never drawn.
    """
    cumulative = logits.double().softmax(-1).cumsum(-1)
    total = cumulative[:, -1:].contiguous()
    drawn = torch.searchsorted(cumulative, uniforms.to(cumulative)[:, None] * total, right=True)
    last_possible = torch.searchsorted(cumulative, total)
    return torch.minimum(drawn, last_possible).squeeze(-1)
