"""The hidden states that predict completions: from packed rows where a policy can be packed, else from padded ones."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from visplay.modules.policy.kv_cache import Context, similar_lengths
from visplay.modules.policy.packing import packed_predictors
from visplay.types import Prompt

if TYPE_CHECKING:
    from visplay.modules.policy.vlm import VLM

logger = logging.getLogger(__name__)


def predictors(vlm: VLM, prompts: Sequence[Prompt], token_ids: Tensor, mask: Tensor) -> Tensor:
    """Run N prompts with G completions each; where they are not packed, say why, once.

    Args:
        vlm: The policy.
        prompts: N prompts.
        token_ids: (N, G, T) completion ids, padded on the right.
        mask: (N, G, T) bool, False at padding.

    Returns:
        (R, H) hidden states that predict the R tokens under the mask, in its order.

    Raises:
        ValueError: Gradient checkpointing, which leaves no cache to continue from, without packed rows.
    """
    reason = vlm.why_not_packed()
    if reason is None:
        return packed_predictors(vlm, prompts, token_ids, mask)
    if vlm.gradient_checkpointing:
        raise ValueError(f"gradient_checkpointing: true needs groups packed into one row, and {reason}; give false")
    _say_padded(reason)
    return padded_predictors(vlm, prompts, token_ids, mask)


def padded_predictors(vlm: VLM, prompts: Sequence[Prompt], token_ids: Tensor, mask: Tensor) -> Tensor:
    """The same from rows padded to similar lengths, each with a copy of its prompt's keys and values."""
    n, g, t = token_ids.shape
    first, context = vlm.prefill(prompts)  # (N, H)
    ids, mask = token_ids.reshape(n * g, t), mask.reshape(n * g, t)
    hidden, places = [], []
    for rows in similar_lengths(mask.sum(-1)):
        width = int(mask[rows].sum(-1).max())
        inside = mask[rows, :width]
        hidden.append(_continue(vlm, first, context, rows // g, ids[rows, :width])[inside])
        places.append((rows[:, None] * t + torch.arange(width, device=rows.device))[inside])
    return torch.cat(hidden)[torch.cat(places).argsort()]


def _continue(vlm: VLM, first: Tensor, context: Context, prompts: Tensor, token_ids: Tensor) -> Tensor:
    """Hidden states (b, T, H) that predict (b, T) completion tokens; ``prompts`` gives each row its prompt."""
    start = first[prompts][:, None]
    if token_ids.shape[1] == 1:
        return start
    rest, _ = vlm.extend(context.take(prompts), token_ids[:, :-1])
    return torch.cat([start, rest], 1)


@functools.cache
def _say_padded(reason: str) -> None:
    """Say once why training computes padded rows."""
    logger.warning("groups are not packed into one row, training is slower: %s", reason)
