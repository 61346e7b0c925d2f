"""Log-probabilities of tokens straight from hidden states, without the logits of all rows at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_BANNED_LOGIT = -1e9


def token_logps(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    banned: Tensor | None = None,
    chunk_size: int = 512,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies under softmax(hidden @ weight.T / temperature), rows in chunks.

    No more than ``chunk_size`` rows of V logits live at once: with gradients on, each chunk is recomputed on the way
    back. The product runs in the dtype of its inputs (or of autocast), the softmax in at least float32.

    Args:
        hidden: (R, H) hidden states, R rows that are scored.
        weight: (V, H) the language-model head.
        targets: (R,) token ids.
        temperature: Softmax temperature, positive.
        banned: (M,) token ids that the distribution excludes; such a target gets a very low, finite value.
        chunk_size: Rows at a time.
        entropy_gradient: Whether the entropies carry their gradient, as a bonus in a loss needs; else they carry none.

    Returns:
        (R,) log-probabilities of the targets and (R,) entropies, both in nats.

    Raises:
        ValueError: Shapes do not fit, or ``temperature`` or ``chunk_size`` is not positive.

    Example:
        >>> logps, entropies = token_logps(torch.zeros(2, 3), torch.ones(4, 3), torch.tensor([0, 3]))
        >>> logps.exp().tolist()
        [0.25, 0.25]
    """
    _check(hidden, weight, targets, temperature, chunk_size)
    return _TokenLogps.apply(hidden, weight, targets, _Settings(temperature, banned, chunk_size, entropy_gradient))


class _Settings(NamedTuple):
    temperature: float
    banned: Tensor | None
    chunk_size: int
    entropy_gradient: bool


class _TokenLogps(torch.autograd.Function):
    """Keeps the hidden states and one logsumexp a row; the backward pass makes each chunk's logits once more."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, settings: _Settings
    ) -> tuple[Tensor, Tensor]:
        device = hidden.device.type
        ctx.dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        ctx.settings = settings
        results = hidden.new_empty((3, len(hidden)), dtype=torch.promote_types(ctx.dtype, torch.float32))
        cast = weight.to(ctx.dtype)
        for rows in _chunks(len(hidden), settings.chunk_size):
            results[:, rows] = _score(hidden[rows].to(ctx.dtype), cast, targets[rows], settings)
        logps, entropies, logsumexps = results.unbind()
        ctx.save_for_backward(hidden, weight, targets, entropies, logsumexps)
        if not settings.entropy_gradient:
            ctx.mark_non_differentiable(entropies)
        return logps, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logps: Tensor, grad_entropies: Tensor) -> tuple[Tensor | None, ...]:
        """With p = softmax(z): d logp(target) / dz = onehot - p and d entropy / dz = -p (log p + entropy)."""
        hidden, weight, targets, entropies, logsumexps = ctx.saved_tensors
        settings: _Settings = ctx.settings
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        cast = weight.to(ctx.dtype)
        for rows in _chunks(len(hidden), settings.chunk_size):
            states, down = hidden[rows].to(ctx.dtype), -grad_logps[rows, None]
            grad = _logits(states, cast, settings).sub_(logsumexps[rows, None])
            if settings.entropy_gradient:
                down = down - grad_entropies[rows, None] * (grad + entropies[rows, None])
            grad = grad.exp_().mul_(down).scatter_add_(1, targets[rows, None], grad_logps[rows, None])
            if settings.banned is not None:
                grad.index_fill_(1, settings.banned, 0.0)
            grad = grad.div_(settings.temperature).to(ctx.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = grad @ cast
            if grad_weight is not None:
                _add_product(grad_weight, grad.T, states)
            del grad, down  # or they would be kept while the next chunk is made
        return grad_hidden, grad_weight, None, None


def _score(hidden: Tensor, weight: Tensor, targets: Tensor, settings: _Settings) -> Tensor:
    """Log-probabilities, entropies and logsumexps of a chunk, (3, rows); all is computed in the logits' place."""
    logits = _logits(hidden, weight, settings)
    highest = logits.amax(1, keepdim=True)
    chosen = logits.gather(1, targets[:, None]).squeeze(1)
    weights = logits.sub_(highest).exp_()  # softmax is weights / total
    total = weights.sum(1)
    logsumexps = highest.squeeze(1) + total.log()
    entropies = total.log() + torch.special.entr(weights, out=weights).sum(1) / total
    return torch.stack([chosen - logsumexps, entropies, logsumexps])


def _add_product(into: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right; in place where the precisions agree, since the product is as large as the whole head."""
    if into.dtype == left.dtype:
        into.addmm_(left, right)
    else:
        into.add_(left @ right)


def _chunks(rows: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, rows, size))


def _logits(hidden: Tensor, weight: Tensor, settings: _Settings) -> Tensor:
    """Logits (rows, V) at the temperature, free to be overwritten."""
    logits = F.linear(hidden, weight)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if settings.temperature != 1.0:
        logits.div_(settings.temperature)
    if settings.banned is not None:
        logits.index_fill_(1, settings.banned, _BANNED_LOGIT)
    return logits


def _check(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk_size: int) -> None:
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden, weight: must have shapes (R, H) and (V, H), got {tuple(hidden.shape)} and {tuple(weight.shape)}"
        )
    if targets.shape != hidden.shape[:1]:
        raise ValueError(
            f"targets: must have shape (R,) for hidden of shape {tuple(hidden.shape)}, got {tuple(targets.shape)}"
        )
    if temperature <= 0:
        raise ValueError(f"temperature: must be positive, got {temperature}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size: must be at least 1, got {chunk_size}")
