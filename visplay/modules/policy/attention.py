"""Scaled dot-product attention that never repeats keys and values for grouped queries, nor a prompt for its answers."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from visplay.modules.policy.packed_attention import many_token_dtype, packed_attention

GROUPED_SDPA = "grouped_sdpa"
"""Name for ``attn_implementation``: packed rows when training, and a fifth faster decoding on a CPU; on CUDA all but
packed rows is transformers' "sdpa"."""


def grouped_sdpa(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """Attention as transformers calls it.

    Args:
        module: The layer; says whether it is causal.
        query: (B, heads, T, D).
        key: (B, key-value heads, L, D), in which each head serves a group of query heads.
        value: Like ``key``.
        attention_mask: (B, 1, T, L), or None.
        **settings: ``scaling``, ``dropout`` and ``is_causal``; with a ``packing`` the one row is packed that way,
            and the mask, stood in for by one of any shape, is not read. What else transformers passes is not needed.

    Returns:
        (B, T, heads, D), and no attention weights.
    """
    packing = settings.get("packing")
    if packing is not None:
        return packed_attention(query, key, value, packing, settings["scaling"]), None
    if query.is_cuda:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    causal = settings.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    dtype, decodes = query.dtype, query.shape[2] == 1  # casting a whole cache for one token would not pay
    precision = dtype if decodes else many_token_dtype(query.device, dtype)
    with torch.autocast("cpu", enabled=False) if precision != dtype else nullcontext():
        out = F.scaled_dot_product_attention(
            query.to(precision),
            key.to(precision),
            value.to(precision),
            attn_mask=attention_mask,
            dropout_p=settings.get("dropout", 0.0),
            scale=settings.get("scaling"),
            is_causal=causal and attention_mask is None and query.shape[2] > 1,
            enable_gqa=query.shape[1] != key.shape[1],
        )
    return out.to(dtype).transpose(1, 2).contiguous(), None


AttentionInterface.register(GROUPED_SDPA, grouped_sdpa)
AttentionMaskInterface.register(GROUPED_SDPA, sdpa_mask)
