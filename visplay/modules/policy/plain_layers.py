"""A language model's layers for few tokens at a time: the same products, in a third of the calls of small operators.

Where one token of each sequence is read, what takes the time is that operators are called, not what they compute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import rms_norm

Attend = Callable[[int, Tensor, Tensor, Tensor, float], Tensor]
"""Takes a layer's number, queries, keys, values (B, heads, T, D) and the factor of scores; returns (B, T, heads, D)."""

PLAIN_LAYERS = frozenset(
    f"{name}DecoderLayer" for name in ("Llama", "Mistral", "Qwen2", "Qwen2_5_VL", "Qwen3", "Qwen3VLText")
)
"""Layers of transformers that are x + attention(norm(x)), and of that y + MLP(norm(y)), gated."""


def has_plain_layers(text_model: Any) -> bool:
    """Whether ``run_plain_layers`` computes what a language model does."""
    return all(type(layer).__name__ in PLAIN_LAYERS for layer in text_model.layers)


def run_plain_layers(text_model: Any, embeddings: Tensor, positions: Tensor, attend: Attend) -> Tensor:
    """Do as a language model does for text tokens, without gradients.

    Args:
        text_model: Of transformers, with layers of ``PLAIN_LAYERS``.
        embeddings: (B, T, H).
        positions: Rotary positions in the family's own shape.
        attend: Attention, with what it keeps of earlier tokens.

    Returns:
        Hidden states (B, T, H).
    """
    cos, sin = (each[0] if each.dim() == 4 else each for each in text_model.rotary_emb(embeddings, positions))
    half = cos.shape[-1] // 2  # of text all parts of a position are the same
    cos, sin = cos[:, None], torch.cat([-sin[..., :half], sin[..., half:]], -1)[:, None]  # (B, 1, T, D)
    hidden = embeddings
    for layer in text_model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        states = _norm(layer.input_layernorm, hidden)
        query, key, value = (
            product(states).unflatten(-1, (-1, attention.head_dim))
            for product in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        if hasattr(attention, "q_norm"):
            query, key = _norm(attention.q_norm, query), _norm(attention.k_norm, key)
        query, key = (
            torch.addcmul(turned * cos, turned.roll(half, -1), sin)
            for turned in (query.transpose(1, 2), key.transpose(1, 2))
        )
        out = attend(attention.layer_idx, query, key, value.transpose(1, 2), attention.scaling)
        hidden = hidden + attention.o_proj(out.flatten(2))
        states = _norm(layer.post_attention_layernorm, hidden)
        hidden = hidden + mlp.down_proj(mlp.act_fn(mlp.gate_proj(states)).mul_(mlp.up_proj(states)))
    return _norm(text_model.norm, hidden)


def _norm(norm: Any, states: Tensor) -> Tensor:
    """The norm; in half precision transformers' own, which rounds in between."""
    if states.dtype != torch.float32:
        return norm(states)
    return rms_norm(states, norm.weight.shape, norm.weight, norm.variance_epsilon)
