"""Attention that never repeats keys and values for grouped queries, nor a prompt for its completions.

Of a packed row each prompt and each completion is read once, and no mask of L x L is made. Two parts: every prompt and
every completion, causal on itself; and all completions of a prompt on the whole prompt. Completions are in both, and
the parts are merged by their logsumexps: outputs b and c with logsumexps β and γ make c + σ(β - γ)·(b - c) with
logsumexp log(e^β + e^γ). In the backward pass each part takes the output and the logsumexp of the WHOLE: its
probabilities p and the gradients of its scores, p·(dp - Σ grad·out), are those of the whole then, so gradients are
exact.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from visplay.modules.policy.packing import Batch, Packing, Segments

GROUPED_SDPA = "grouped_sdpa"
"""Name for ``attn_implementation``: packed rows when training, and a fifth faster decoding on a CPU; on CUDA all but
packed rows is transformers' "sdpa"."""

States = tuple[Tensor, Tensor, Tensor]
"""Queries (R, heads, D), keys and values (S, key-value heads, D), or their gradients."""

_cpu_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_cpu_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_cuda_forward = torch.ops.aten._flash_attention_forward
_cuda_backward = torch.ops.aten._flash_attention_backward


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
        **settings: ``scaling``, ``dropout`` and ``is_causal``; with a ``packing`` the one row is packed that way, with
            a ``decoding`` each row is the next token of a sequence in that cache, and the mask, stood in for by one of
            any shape, is not read. What else transformers passes is not needed.

    Returns:
        (B, T, heads, D), and no attention weights.
    """
    packing = settings.get("packing")
    if packing is not None:
        device, dtype = query.device, query.dtype
        if torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
        rows = [states.squeeze(0).transpose(0, 1).to(many_token_dtype(device, dtype)) for states in (query, key, value)]
        return _PackedAttention.apply(*rows, packing, settings["scaling"])[None].to(dtype), None
    if (decoding := settings.get("decoding")) is not None:
        return decoding.attend(module.layer_idx, query, key, value, settings["scaling"]), None
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


_FEW_QUERIES = 8
"""Of a sequence and a head; products for fewer of them are faster than the kernel for CPUs."""


def attend_with_logsumexp(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention of few queries, without gradients.

    Args:
        query: (B, heads, T, D).
        key: (B, heads, L, D).
        value: Like ``key``.
        bias: (B, 1, 1 or T, L), added to the scores: minus infinity where a key is not seen.
        scale: Factor of the scores.

    Returns:
        Outputs (B, heads, T, D) and logsumexps (B, heads, T), these in float32.
    """
    if query.device.type == "cpu" and query.shape[2] > _FEW_QUERIES:
        bias = bias.to(query.dtype).expand(-1, 1, query.shape[2], -1)
        return _cpu_forward(query, key, value, 0.0, False, attn_mask=bias, scale=scale)
    scores = torch.matmul(query, key.transpose(-1, -2)).float().mul_(scale).add_(bias)
    highest = scores.amax(-1, keepdim=True)
    weights = scores.sub_(highest).exp_()
    total = weights.sum(-1, keepdim=True)
    out = torch.matmul(weights.to(value.dtype), value).div_(total)
    return out.to(value.dtype), total.log_().add_(highest).squeeze(-1)


@functools.cache
def many_token_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """What attention of many tokens is computed in: float32 on a processor that has no products in half precision.

    There the kernel's backward pass takes several times as long in half precision as in float32.
    """
    names = {torch.bfloat16: ("amx_bf16", "avx512_bf16"), torch.float16: ("amx_fp16", "avx512_fp16")}.get(dtype)
    if device.type != "cpu" or names is None or any(_cpu_capabilities().get(name) for name in names):
        return dtype
    return torch.float32


def _cpu_capabilities() -> Mapping[str, Any]:
    """Instructions of this processor by name; torch 2.9 has a function for each instead of one for all."""
    if hasattr(torch.cpu, "get_capabilities"):
        return torch.cpu.get_capabilities()
    amx, amx_fp16 = torch.cpu._is_amx_tile_supported(), torch.cpu._is_amx_fp16_supported()
    return {"amx_bf16": amx, "amx_fp16": amx_fp16, "avx512_bf16": torch.cpu._is_avx512_bf16_supported()}


@functools.cache
def why_not_attended(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why packed attention cannot be computed there; None where kernels exist, and agree with a masked softmax.

    The kernels that return and take logsumexps are torch's own, but not of its public interface; so they are
    tried, once for a device and a precision, on one small group. On CUDA they take half precision only.
    """
    missing = f"there is no kernel for {dtype} on {device.type}"
    if device.type != "cpu" and not (device.type == "cuda" and dtype in (torch.float16, torch.bfloat16)):
        return missing
    try:
        agrees = _agrees(device, dtype)
    except (RuntimeError, TypeError, NotImplementedError):
        return missing
    return None if agrees else f"the kernels for {dtype} on {device.type} do not agree with a masked softmax"


@torch.inference_mode(False)
@torch.enable_grad()
def _agrees(device: torch.device, dtype: torch.dtype) -> bool:
    """Compare outputs and gradients of one prompt with two completions to those of a masked softmax in float64."""
    lengths, draw, scale = (33, 20, 7), torch.Generator().manual_seed(0), 0.125
    *states, weights = (torch.randn(1, 2, sum(lengths), 64, generator=draw).to(dtype) for _ in range(4))
    owner = torch.tensor([0, 1, 2]).repeat_interleave(torch.tensor(lengths))
    visible = ((owner == owner[:, None]) | (owner == 0)).tril()
    packing = Packing(lengths[:1], [lengths[1:]])
    ours = query, key, value = tuple(s.to(device).requires_grad_() for s in states)
    exact = tuple(s.double().requires_grad_() for s in states)
    with torch.autocast(device.type, enabled=False):
        out = grouped_sdpa(nn.Identity(), query, key, value, None, scaling=scale, packing=packing)[0].transpose(1, 2)
        expected = F.scaled_dot_product_attention(exact[0], exact[1], exact[2], attn_mask=visible, scale=scale)
        pairs = [(out, expected)]
        pairs += zip(
            torch.autograd.grad(out, ours, weights.to(out)),
            torch.autograd.grad(expected, exact, weights.double()),
            strict=True,
        )
    tolerance = min(256 * torch.finfo(dtype).eps, 0.1)
    return all(bool((a.cpu() - b).abs().max() <= tolerance * b.abs().max()) for a, b in pairs)


class _PackedAttention(torch.autograd.Function):
    """Both parts as one operator on (L, heads, D)."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, packing: Packing, scale: float) -> Tensor:
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        start, stop = packing.prompt_tokens, len(query)
        out, logsumexp = _attend((query, key, value), packing.within, scale)
        if start < stop:
            b, beta = _attend((query[start:], key[:start], value[:start]), packing.across, scale)
            gamma = logsumexp[start:stop]
            out[start:].lerp_(b, torch.sigmoid(beta[:-1] - gamma).to(b.dtype)[..., None])
            gamma.copy_(torch.logaddexp(beta[:-1], gamma))
        ctx.save_for_backward(query, key, value, out, logsumexp)
        ctx.packing, ctx.scale = packing, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, logsumexp = ctx.saved_tensors
        packing, scale, grad = ctx.packing, ctx.scale, grad.contiguous()
        start, stop = packing.prompt_tokens, len(query)
        gradients = _differentiate((grad, out, logsumexp), (query, key, value), packing.within, scale)
        if start < stop:
            whole, states = (grad[start:], out[start:], logsumexp[start:]), (query[start:], key[:start], value[:start])
            parts = _differentiate(whole, states, packing.across, scale)
            for rows, part in zip(
                (gradients[0][start:], gradients[1][:start], gradients[2][:start]), parts, strict=True
            ):
                rows.add_(part)
        return *gradients, None, None


def _attend(states: States, segments: Segments, scale: float) -> tuple[Tensor, Tensor]:
    """Outputs (R, heads, D) of R queries, and logsumexps (R + 1, heads), the last one infinite."""
    query, causal = states[0], segments.causal
    if query.is_cuda:  # whose kernel takes segments of any length, and grouped heads
        lengths = segments.cumulative(query.device)
        out, lse, *_ = _cuda_forward(*states, *lengths, *segments.longest, 0.0, causal, False, scale=scale)
        return out, torch.cat([lse.transpose(0, 1), lse.new_full((1, len(lse)), torch.inf)])
    out = query.new_empty((len(query) + 1, *query.shape[1:]))  # padding is written to the last row
    logsumexp = out.new_empty(out.shape[:2], dtype=torch.promote_types(out.dtype, torch.float32))
    for batch in segments.batches:
        parts = _cpu_forward(*_gather_states(states, batch), 0.0, causal, **_mask(batch, out), scale=scale)
        for rows, part in zip((out, logsumexp), parts, strict=True):
            rows.index_copy_(0, batch.targets[0], part.transpose(1, 2).flatten(0, 1))
    logsumexp[-1] = torch.inf
    return out[:-1], logsumexp


def _differentiate(whole: States, states: States, segments: Segments, scale: float) -> States:
    """The gradients of states, shaped like them.

    Args:
        whole: Of the queries: gradient and output (R, heads, D), logsumexps (R + 1, heads), the last one infinite.
        states: Queries, keys and values.
        segments: Which keys each query attends to.
        scale: Factor of the scores.
    """
    (grad, out, logsumexp), causal = whole, segments.causal
    if grad.is_cuda:
        lengths, lse = segments.cumulative(grad.device), logsumexp[:-1].transpose(0, 1).contiguous()
        unused = torch.zeros(2, dtype=torch.uint64, device=grad.device), torch.empty(0, device=grad.device)  # dropout
        settings = (*lengths, *segments.longest, 0.0, causal, *unused)
        gradients = _cuda_backward(grad, *states, out, lse, *settings, scale=scale)
    else:
        into = [rows.new_empty((len(rows) + 1, *rows.shape[1:])) for rows in states]  # padding goes to the last row
        for batch in segments.batches:
            outer = [_gather(rows, batch.sources[0], batch.size) for rows in (grad, out)]
            lse = _gather(logsumexp, batch.targets[0], batch.size)  # infinite at padding: probability and gradient 0
            gathered = _gather_states(states, batch)
            mask = _mask(batch, out)
            parts = _cpu_backward(outer[0], *gathered, outer[1], lse, 0.0, causal, **mask, scale=scale)
            for rows, part, targets in zip(into, parts, (batch.targets[0], *2 * batch.targets[1:]), strict=True):
                served = part.transpose(1, 2).flatten(0, 1).unflatten(1, (rows.shape[1], -1))  # heads that a key serves
                rows.index_copy_(0, targets, served.squeeze(2) if served.shape[2] == 1 else served.sum(2))
        gradients = into[0][:-1], into[1][:-1], into[2][:-1]
    for keys in segments.unread:
        for rows in gradients[1:]:
            rows[keys].zero_()
    return gradients


def _mask(batch: Batch, like: Tensor) -> dict[str, Any]:
    return {} if batch.mask is None else {"attn_mask": batch.mask.to(like.dtype)}


def _gather(rows: Tensor, index: Tensor, size: int) -> Tensor:
    """Rows (R, heads, …) of a batch as (size, heads, T, …)."""
    return rows.index_select(0, index).unflatten(0, (size, -1)).transpose(1, 2)


def _gather_states(states: States, batch: Batch) -> States:
    """A batch for the kernel, which takes as many heads of keys as of queries."""
    queries, keys = batch.sources
    pairs = zip(states, (queries, keys, keys), strict=True)
    query, key, value = (_gather(rows, index, batch.size) for rows, index in pairs)
    served = query.shape[1] // key.shape[1]
    return query, key.repeat_interleave(served, 1), value.repeat_interleave(served, 1)


AttentionInterface.register(GROUPED_SDPA, grouped_sdpa)
AttentionMaskInterface.register(GROUPED_SDPA, sdpa_mask)
