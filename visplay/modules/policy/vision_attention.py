"""Attention of a vision tower that takes the patches of all images as one row: images and windows in few calls."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from visplay.modules.policy.attention import grouped_sdpa

SEGMENTED_SDPA = "segmented_flash_sdpa"
"""Name for ``attn_implementation``. Towers tell an implementation with "flash" in its name where segments begin; any
other they call once for each segment, which are thousands where windows are small."""


def attend_by_segments(layers: Iterable[Any]) -> None:
    """Have attention layers of a vision tower use it; the model's configuration stays as it is."""
    for layer in layers:
        layer.config = copy.copy(layer.config)
        layer.config._attn_implementation = SEGMENTED_SDPA


def segmented_sdpa(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, **settings: Any
) -> tuple[Tensor, None]:
    """Attention as transformers calls it, each patch to its own segment: one call for each length of segments.

    Args:
        module: The layer.
        query: (1, heads, L, D).
        key: Like ``query``.
        value: Like ``query``.
        attention_mask: None.
        **settings: ``cu_seq_lens_q``, where the segments begin and end; ``scaling``.

    Returns:
        (1, L, heads, D), and no attention weights.
    """
    bounds = settings["cu_seq_lens_q"]
    lengths = bounds.diff()
    rows = [states[0].transpose(0, 1) for states in (query, key, value)]  # (L, heads, D)
    distinct = lengths.unique().tolist()
    if len(distinct) == 1:
        return _attend(module, rows, distinct[0], settings["scaling"])[None], None
    parts, places = [], []
    for length in distinct:
        starts = bounds[:-1][lengths == length]
        places.append((starts[:, None] + torch.arange(length, device=starts.device)).flatten())
        gathered = [states.index_select(0, places[-1]) for states in rows]
        parts.append(_attend(module, gathered, length, settings["scaling"]))
    return torch.cat(parts).index_select(0, torch.cat(places).argsort())[None], None


def _attend(module: nn.Module, rows: list[Tensor], length: int, scale: float) -> Tensor:
    """Segments of one length, one after another, (R, heads, D)."""
    if not length:
        return rows[0]
    query, key, value = (states.unflatten(0, (-1, length)).transpose(1, 2) for states in rows)
    out, _ = grouped_sdpa(module, query, key, value, None, scaling=scale, is_causal=False)
    return out.flatten(0, 1)


AttentionInterface.register(SEGMENTED_SDPA, segmented_sdpa)
