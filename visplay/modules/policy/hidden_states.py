"""The hidden states that predict completions: from packed rows where a policy can be packed, else from padded ones."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from visplay.modules.policy.collation import collate, embed, widen
from visplay.modules.policy.family import Family
from visplay.modules.policy.kv_cache import similar_lengths
from visplay.modules.policy.packing import Packing
from visplay.modules.policy.prefill import extend, prefill
from visplay.types import Prompt

logger = logging.getLogger(__name__)


def target_hidden_states(family: Family, prompts: Sequence[Prompt], token_ids: Tensor, mask: Tensor) -> Tensor:
    """Run N prompts with G completions each as one packed row; where they cannot be packed, say why, once.

    Completions of a group that are the same are read once.

    Args:
        family: The policy.
        prompts: N prompts.
        token_ids: (N, G, T) completion ids, padded on the right.
        mask: (N, G, T) bool, False at padding.

    Returns:
        (R, H) hidden states that predict the R tokens under the mask, in its order.

    Raises:
        ValueError: Gradient checkpointing, which leaves no cache to continue from, without packed rows.
    """
    reason = family.why_not_packed()
    if reason is not None:
        if family.gradient_checkpointing:
            raise ValueError(f"gradient_checkpointing: true needs groups packed into one row, and {reason}; give false")
        _warn_padded(reason)
        return padded_hidden_states(family, prompts, token_ids, mask)

    batch, first = collate(family, prompts), _first_equal(token_ids, mask)
    again = first != torch.arange(mask.shape[1], device=mask.device)
    whole, mask = mask, mask & ~again[..., None]
    read = mask[..., 1:]  # a token is read where another follows
    prompt_embeddings = embed(family, batch.input_ids[batch.mask], batch)
    completion_embeddings = family.model.get_input_embeddings()(token_ids[..., :-1][read])
    embeddings = torch.cat([prompt_embeddings, widen(completion_embeddings, prompt_embeddings.shape[-1])])[None]
    prompt_positions = batch.positions.flatten(-2)[..., batch.mask.flatten()].unsqueeze(-2)
    steps = batch.next_position[:, None, None] + torch.arange(read.shape[-1], device=read.device)
    completion_positions = family.text_positions(steps.expand(read.shape)[read][None])
    packing = Packing(batch.mask.sum(-1).tolist(), read.sum(-1).tolist())
    slots = torch.zeros_like(mask, dtype=torch.long)  # in the row, of what predicts each token
    slots[..., 0] = torch.tensor(list(accumulate(packing.prompts)), device=mask.device)[:, None] - 1
    slots[..., 1:][read] = torch.arange(packing.completion_tokens, device=mask.device) + packing.prompt_tokens
    hidden = family.text_model(
        **family.text_inputs(embeddings),
        attention_mask=embeddings.new_ones(1, 1, 1, 1, dtype=torch.bool),  # a stand-in, so that no mask is made
        position_ids=torch.cat([prompt_positions, completion_positions], -1),
        use_cache=False,
        packing=packing,
    ).last_hidden_state[0]
    return hidden.index_select(0, slots.take_along_dim(first[..., None], 1)[whole])


def _first_equal(token_ids: Tensor, mask: Tensor) -> Tensor:
    """For each of (N, G) completions (N, G, T) the first of its group that is the same; often itself."""
    ids, numbers = token_ids.masked_fill(~mask, -1), torch.arange(mask.shape[1], device=mask.device)
    same = torch.stack([(ids == ids[:, j, None]).all(-1) for j in range(len(numbers))], -1)  # (N, G, G)
    return torch.where(same, numbers, len(numbers)).amin(-1)


def padded_hidden_states(family: Family, prompts: Sequence[Prompt], token_ids: Tensor, mask: Tensor) -> Tensor:
    """The same from rows padded to similar lengths, each with a copy of its prompt's keys and values."""
    n, g, t = token_ids.shape
    first, cache = prefill(family, prompts)  # (N, H)
    ids, mask = token_ids.reshape(n * g, t), mask.reshape(n * g, t)
    hidden, slots = [], []
    for numbers in similar_lengths(mask.sum(-1).tolist()):
        rows = torch.tensor(numbers, device=mask.device)
        width = int(mask[rows].sum(-1).max())
        states = first[rows // g][:, None]
        if width > 1:
            rest, _ = extend(family, cache.take(rows // g), ids[rows, : width - 1])
            states = torch.cat([states, rest], 1)
        inside = mask[rows, :width]
        hidden.append(states[inside])
        slots.append((rows[:, None] * t + torch.arange(width, device=rows.device))[inside])
    return torch.cat(hidden)[torch.cat(slots).argsort()]


@functools.cache
def _warn_padded(reason: str) -> None:
    """Say once why training computes padded rows."""
    logger.warning("groups are not packed into one row, training is slower: %s", reason)
