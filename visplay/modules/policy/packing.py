"""Groups packed into one row: every prompt once, behind them the answers to each, and nothing between them.

The row of N groups is [prompt 1 … prompt N, answers to 1 … answers to N], exactly the tokens that are there. A prompt
is causal on itself; an answer sees its prompt and, causally, itself; its rotary positions go on from its prompt's last.
The last position of a prompt predicts the first token of all its answers, so the last token of an answer is not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from visplay.modules.policy.collation import widen
from visplay.modules.policy.kv_cache import similar_lengths
from visplay.types import Prompt

if TYPE_CHECKING:
    from visplay.modules.policy.vlm import VLM

LONE_TOKENS = 128
"""From this length on a stretch is computed alone and in place; shorter ones are copied together."""


@dataclass(frozen=True)
class Batch:
    """Stretches of about one length, padded on the right.

    Args:
        sources: (size · T,) the row of each place; that of its stretch's first token at padding.
        targets: Likewise, and the number of all rows at padding.
        size: Number of stretches.
    """

    sources: Tensor
    targets: Tensor
    size: int


@dataclass(frozen=True)
class Segments:
    """Stretches of queries, one after another, each with the stretch of keys that it attends to.

    Args:
        queries: Tokens of each stretch of queries.
        keys: Tokens of its stretch of keys.
        causal: Whether token t sees no key after t (both stretches are of one length then), or all of them.
    """

    queries: Sequence[int]
    keys: Sequence[int]
    causal: bool

    @cached_property
    def longest(self) -> tuple[int, int]:
        """Tokens of the longest stretch of queries, and of keys."""
        return max(self.queries), max(self.keys)

    def cumulative(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Where the stretches of queries and of keys begin and end, (segments + 1,) each."""
        if device not in self._cumulative:
            ends = (list(accumulate(lengths, initial=0)) for lengths in (self.queries, self.keys))
            queries, keys = (torch.tensor(end, dtype=torch.int32, device=device) for end in ends)
            self._cumulative[device] = queries, keys
        return self._cumulative[device]

    @cached_property
    def _cumulative(self) -> dict[torch.device, tuple[Tensor, Tensor]]:
        return {}

    @cached_property
    def unread(self) -> list[slice]:
        """Stretches of keys that no query attends to."""
        return [keys for tokens, keys in zip(self.queries, _spans(self.keys), strict=True) if not tokens]

    @cached_property
    def lone(self) -> list[tuple[slice, slice]]:
        """Stretches of queries and keys that are computed one by one, in place."""
        together = set(self._short)
        return [
            spans
            for i, spans in enumerate(zip(_spans(self.queries), _spans(self.keys), strict=True))
            if self.queries[i] and i not in together
        ]

    @cached_property
    def batches(self) -> list[Batch]:
        """The other stretches: few calls of a kernel that takes equal lengths only, and little padding."""
        if not self._short:
            return []
        groups = similar_lengths(torch.tensor([self.queries[i] for i in self._short]))
        return [self._batch([self._short[i] for i in group.tolist()]) for group in groups]

    @cached_property
    def _short(self) -> list[int]:
        return [i for i, tokens in enumerate(self.queries) if self.causal and 0 < tokens < LONE_TOKENS]

    def _batch(self, members: list[int]) -> Batch:
        spans = _spans(self.queries)
        starts = torch.tensor([spans[i].start for i in members])[:, None]
        lengths = torch.tensor([self.queries[i] for i in members])[:, None]
        steps = torch.arange(int(lengths.max()))
        rows, inside = starts + steps, steps < lengths
        sources, targets = torch.where(inside, rows, starts), torch.where(inside, rows, sum(self.queries))
        return Batch(sources.flatten(), targets.flatten(), len(members))


def _spans(lengths: Sequence[int]) -> list[slice]:
    """Where stretches of these lengths are, one after another."""
    return [slice(end - tokens, end) for tokens, end in zip(lengths, accumulate(lengths), strict=True)]


@dataclass(frozen=True)
class Packing:
    """Where the prompts and the answers of N groups are in a packed row.

    Args:
        prompts: N numbers of tokens.
        answers: For each prompt, the tokens of its answers that are read (all but each one's last); may be 0.
    """

    prompts: Sequence[int]
    answers: Sequence[Sequence[int]]

    @cached_property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, which come first."""
        return sum(self.prompts)

    @cached_property
    def answer_tokens(self) -> int:
        """Tokens of all answers, which follow."""
        return sum(map(sum, self.answers))

    @cached_property
    def within(self) -> Segments:
        """Prompts and answers, causal on themselves."""
        lengths = [*self.prompts, *(tokens for group in self.answers for tokens in group)]
        return Segments(lengths, lengths, causal=True)

    @cached_property
    def across(self) -> Segments:
        """All answers to a prompt, on the whole prompt."""
        return Segments([sum(group) for group in self.answers], self.prompts, causal=False)


def packed_predictors(vlm: VLM, prompts: Sequence[Prompt], token_ids: Tensor, mask: Tensor) -> Tensor:
    """Run N groups as one packed row.

    Args:
        vlm: A policy that can be packed.
        prompts: N prompts.
        token_ids: (N, G, T) ids of the answers, padded on the right.
        mask: (N, G, T) bool, False at padding.

    Returns:
        (R, H) hidden states that predict the R tokens under the mask, in its order.
    """
    batch = vlm.collate(prompts)
    read = mask[..., 1:]  # a token is read where another follows
    answer_ids = token_ids[..., :-1][read]
    prompt_embeddings = vlm.embed(batch.input_ids[batch.mask], batch)
    answer_embeddings = vlm.model.get_input_embeddings()(answer_ids)
    embeddings = torch.cat([prompt_embeddings, widen(answer_embeddings, prompt_embeddings.shape[-1])])
    steps = batch.next_position[:, None, None] + torch.arange(read.shape[-1], device=read.device)
    answer_positions = vlm.text_positions(steps.expand(read.shape)[read][None])
    prompt_positions = batch.positions.flatten(-2)[..., batch.mask.flatten()].unsqueeze(-2)
    packing = Packing(batch.mask.sum(-1).tolist(), read.sum(-1).tolist())
    positions = torch.cat([prompt_positions, answer_positions], -1)
    hidden = vlm.packed_language_model(embeddings[None], positions, packing)[0]
    return hidden.index_select(0, _predicting(packing, mask, read))


def _predicting(packing: Packing, mask: Tensor, read: Tensor) -> Tensor:
    """(R,) places in the row whose hidden states predict the R tokens under the mask."""
    places = torch.zeros_like(mask, dtype=torch.long)
    places[..., 0] = torch.tensor(list(accumulate(packing.prompts)), device=mask.device)[:, None] - 1
    behind = torch.arange(packing.answer_tokens, device=mask.device) + packing.prompt_tokens
    places[..., 1:][read] = behind
    return places[mask]
