"""Attention of a packed row: each prompt and each answer is read once, and no mask of L x L is made.

Two parts: every prompt and every answer, causal on itself; and all answers to a prompt on the whole prompt. Answers
are in both, and the parts are merged by the logarithms of their logsumexps: outputs b and c with logsumexps β
and γ make c + σ(β - γ)·(b - c) with logsumexp log(e^β + e^γ). In the backward pass each part takes the output and the
logsumexp of the WHOLE: its probabilities p and the gradients of its scores, p·(dp - Σ grad·out), are those of the
whole then, so gradients are exact.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from visplay.modules.policy.packing import Batch, Packing, Segments

States = tuple[Tensor, Tensor, Tensor]
"""Queries (R, heads, D), keys and values (S, key-value heads, D), or their gradients."""

_cpu_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_cpu_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_cuda_forward = torch.ops.aten._flash_attention_forward
_cuda_backward = torch.ops.aten._flash_attention_backward


def packed_attention(query: Tensor, key: Tensor, value: Tensor, packing: Packing, scale: float) -> Tensor:
    """Attention of one packed row.

    Args:
        query: (1, heads, L, D).
        key: (1, key-value heads, L, D), in which each head serves a group of query heads.
        value: Like ``key``.
        packing: Where prompts and answers are.
        scale: Factor of the scores.

    Returns:
        (1, L, heads, D).
    """
    device = query.device
    dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else query.dtype
    rows = [states[0].transpose(0, 1).to(many_token_dtype(device, dtype)) for states in (query, key, value)]
    return _PackedAttention.apply(*rows, packing, scale)[None].to(dtype)


@functools.cache
def many_token_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """What attention of many tokens is computed in: float32 on a processor that has no products in half precision.

    There the kernel's backward pass takes several times as long in half precision as in float32.
    """
    names = {torch.bfloat16: ("amx_bf16", "avx512_bf16"), torch.float16: ("amx_fp16", "avx512_fp16")}.get(dtype)
    if device.type != "cpu" or names is None or any(torch.cpu.get_capabilities().get(name) for name in names):
        return dtype
    return torch.float32


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


@torch.enable_grad()
def _agrees(device: torch.device, dtype: torch.dtype) -> bool:
    """Compare outputs and gradients of one prompt with two answers to those of a masked softmax in float64."""
    lengths, draw, scale = (33, 20, 7), torch.Generator().manual_seed(0), 0.125
    *states, weights = (torch.randn(1, 2, sum(lengths), 64, generator=draw).to(dtype) for _ in range(4))
    owner = torch.tensor([0, 1, 2]).repeat_interleave(torch.tensor(lengths))
    visible = ((owner == owner[:, None]) | (owner == 0)).tril()
    packing = Packing(lengths[:1], [lengths[1:]])
    ours = query, key, value = tuple(s.to(device).requires_grad_() for s in states)
    exact = tuple(s.double().requires_grad_() for s in states)
    with torch.autocast(device.type, enabled=False):
        out = packed_attention(query, key, value, packing, scale).transpose(1, 2)
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
    attend = _ragged_attend if states[0].is_cuda else _cpu_attend
    return attend(states, segments, scale)


def _differentiate(whole: States, states: States, segments: Segments, scale: float) -> States:
    """The gradients of states, shaped like them.

    Args:
        whole: Of the queries: gradient and output (R, heads, D), logsumexps (R + 1, heads), the last one infinite.
        states: Queries, keys and values.
        segments: Which keys each query attends to.
        scale: Factor of the scores.
    """
    differentiate = _ragged_differentiate if states[0].is_cuda else _cpu_differentiate
    gradients = differentiate(whole, states, segments, scale)
    for keys in segments.unread:
        for rows in gradients[1:]:
            rows[keys].zero_()
    return gradients


def _cpu_attend(states: States, segments: Segments, scale: float) -> tuple[Tensor, Tensor]:
    """The kernel takes batches of equal lengths only."""
    query, heads = states[0], states[1].shape[1]
    out = query.new_empty((len(query) + 1, *query.shape[1:]))  # padding is written to the row behind
    logsumexp = out.new_empty(out.shape[:2], dtype=torch.promote_types(out.dtype, torch.float32))
    for queries, keys in segments.lone:
        part, lse = _cpu_forward(*_views(states, queries, keys), 0.0, segments.causal, scale=scale)
        _view(out[queries], heads).copy_(part)
        _view(logsumexp[queries, :, None], heads).squeeze(-1).copy_(lse)
    for batch in segments.batches:
        part, lse = _cpu_forward(*_gather_states(states, batch), 0.0, segments.causal, scale=scale)
        out.index_copy_(0, batch.targets, _rows(part))
        logsumexp.index_copy_(0, batch.targets, _rows(lse))
    logsumexp[-1] = torch.inf
    return out[:-1], logsumexp


def _cpu_differentiate(whole: States, states: States, segments: Segments, scale: float) -> States:
    """Padding has an infinite logsumexp, hence probability and gradient 0."""
    (grad, out, logsumexp), heads = whole, states[1].shape[1]
    into = tuple(rows.new_empty((len(rows) + 1, *rows.shape[1:])) for rows in states)  # padding goes to the row behind
    for queries, keys in segments.lone:
        outer = _view(grad[queries], heads), _view(out[queries], heads)
        lse = _view(logsumexp[queries, :, None], heads).squeeze(-1)
        views = _views(states, queries, keys)
        parts = _cpu_backward(outer[0], *views, outer[1], lse, 0.0, segments.causal, scale=scale)
        _view(into[0][queries], heads).copy_(parts[0])
        for rows, part in zip(into[1:], parts[1:], strict=True):
            torch.sum(part, 1, keepdim=True, out=_view(rows[keys], heads))  # over the query heads a key head serves
    for batch in segments.batches:
        outer = _gather(grad, batch.sources, batch), _gather(out, batch.sources, batch)
        lse, gathered = _gather(logsumexp, batch.targets, batch), _gather_states(states, batch)
        parts = _cpu_backward(outer[0], *gathered, outer[1], lse, 0.0, segments.causal, scale=scale)
        for rows, part in zip(into, map(_rows, parts), strict=True):
            served = part.unflatten(1, (rows.shape[1], -1))  # for keys, the query heads that each serves
            rows.index_copy_(0, batch.targets, served.squeeze(2) if served.shape[2] == 1 else served.sum(2))
    return into[0][:-1], into[1][:-1], into[2][:-1]


def _view(rows: Tensor, heads: int) -> Tensor:
    """Rows (T, heads · r, D) as (heads, r, T, D)."""
    return rows.unflatten(1, (heads, -1)).permute(1, 2, 0, 3)


def _views(states: States, queries: slice, keys: slice) -> States:
    """A stretch of queries and one of keys for the kernel; no key is repeated for the query heads that share it."""
    heads = states[1].shape[1]
    query = _view(states[0][queries], heads)
    key, value = (_view(rows[keys], heads).expand(-1, query.shape[1], -1, -1) for rows in states[1:])
    return query, key, value


def _gather(rows: Tensor, index: Tensor, batch: Batch) -> Tensor:
    """Rows (R, heads, …) of a batch as (batch, heads, T, …)."""
    return rows.index_select(0, index).unflatten(0, (batch.size, -1)).transpose(1, 2)


def _gather_states(states: States, batch: Batch) -> States:
    """A batch for the kernel, which takes as many heads of keys as of queries."""
    served = states[0].shape[1] // states[1].shape[1]
    query, key, value = (_gather(rows, batch.sources, batch) for rows in states)
    return query, key.repeat_interleave(served, 1), value.repeat_interleave(served, 1)


def _rows(batch: Tensor) -> Tensor:
    """(batch, heads, T, …) as rows (batch · T, heads, …)."""
    return batch.transpose(1, 2).flatten(0, 1)


def _ragged_attend(states: States, segments: Segments, scale: float) -> tuple[Tensor, Tensor]:
    """On CUDA, whose kernel takes stretches of any length, and grouped heads."""
    causal, lengths = segments.causal, segments.cumulative(states[0].device)
    out, lse, *_ = _cuda_forward(*states, *lengths, *segments.longest, 0.0, causal, False, scale=scale)
    return out, torch.cat([lse.transpose(0, 1), lse.new_full((1, len(lse)), torch.inf)])


def _ragged_differentiate(whole: States, states: States, segments: Segments, scale: float) -> States:
    """On CUDA. The kernel reads the state of the random numbers for dropout only."""
    grad, out, lse = whole[0], whole[1], whole[2][:-1].transpose(0, 1).contiguous()
    causal, lengths = segments.causal, segments.cumulative(grad.device)
    unused = torch.zeros(2, dtype=torch.uint64, device=grad.device), torch.empty(0, device=grad.device)
    return _cuda_backward(grad, *states, out, lse, *lengths, *segments.longest, 0.0, causal, *unused, scale=scale)
