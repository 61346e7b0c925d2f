"""Log-probabilities of tokens straight from hidden states, without the logits of all rows at once."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_BANNED_LOGIT = -1e9


def token_logps(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    banned: Tensor | None = None,
    chunk_size: int = 1024,
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
    chunks = [
        _score_checkpointed(hidden[rows], weight, targets[rows], temperature, banned, entropy_gradient)
        for start in range(0, max(len(hidden), 1), chunk_size)
        for rows in [slice(start, start + chunk_size)]
    ]
    logps, entropies = zip(*chunks, strict=True)
    return torch.cat(logps), torch.cat(entropies)


def _score_checkpointed(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, banned: Tensor | None, entropy_gradient: bool
) -> tuple[Tensor, Tensor]:
    if not torch.is_grad_enabled():
        return _score(hidden, weight, targets, temperature, banned, entropy_gradient=False)
    score = partial(_score, entropy_gradient=entropy_gradient)
    return checkpoint(
        score, hidden, weight, targets, temperature, banned, use_reentrant=False, preserve_rng_state=False
    )


def _score(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, banned: Tensor | None, entropy_gradient: bool
) -> tuple[Tensor, Tensor]:
    logits = F.linear(hidden, weight)  # (R, V)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    if banned is not None:
        logits = logits.index_fill_(1, banned, _BANNED_LOGIT)
    normaliser = logits.logsumexp(1)  # (R,)
    logps = logits.gather(1, targets[:, None]).squeeze(1) - normaliser
    with torch.set_grad_enabled(entropy_gradient):
        entropies = normaliser - (logits.softmax(1) * logits).sum(1)
    return logps, entropies


def _check(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk_size: int) -> None:
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden, weight: must have shapes (R, H) and (V, H), got {tuple(hidden.shape)} and {tuple(weight.shape)}"
        )
    if targets.shape != hidden.shape[:1]:
        raise ValueError(
            f"targets: must have shape (R,) beside hidden of shape {tuple(hidden.shape)}, got {tuple(targets.shape)}"
        )
    if temperature <= 0:
        raise ValueError(f"temperature: must be positive, got {temperature}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size: must be at least 1, got {chunk_size}")
