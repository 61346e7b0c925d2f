"""Groups packed into one row: every prompt once, behind them the completions of each, and nothing between them.

The row of N groups is [prompt 1 … prompt N, completions of 1 … completions of N], exactly the tokens that are there. A
prompt is causal on itself; a completion sees its prompt and, causally, itself; its rotary positions go on from its
prompt's last. The last position of a prompt predicts the first token of all its completions, so the last token of a
completion is not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from visplay.modules.policy.kv_cache import similar_lengths

MOST_PADDED_PAIRS = 16384
"""Queries x keys of a segment that is padded to be one of a batch; what padding adds to more costs more than a call."""


@dataclass(frozen=True)
class Batch:
    """Segments of about one length, padded on the right; ``sources`` and ``targets`` are of queries and of keys.

    Args:
        size: Number of segments.
        sources: (size · T,) index of each token in the row; at padding that of its segment's first token.
        targets: Likewise, and the number of all tokens at padding.
        mask: (size, 1, 1, T) of the keys, to be added to scores: minus infinity at padding that would be seen, else 0;
            None where there is none.
    """

    size: int
    sources: tuple[Tensor, Tensor]
    targets: tuple[Tensor, Tensor]
    mask: Tensor | None = None


@dataclass(frozen=True)
class Segments:
    """Segments of queries, one after another, each with the segment of keys that it attends to.

    Args:
        queries: Tokens of each segment of queries.
        keys: Tokens of its segment of keys.
        causal: Whether token t sees no key after t (both segments are of one length then), or all of them.
    """

    queries: Sequence[int]
    keys: Sequence[int]
    causal: bool
    _cumulative: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def longest(self) -> tuple[int, int]:
        """Tokens of the longest segment of queries, and of keys."""
        return max(self.queries), max(self.keys)

    def cumulative(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Where the segments of queries and of keys begin and end, (segments + 1,) each."""
        if device not in self._cumulative:
            ends = (list(accumulate(lengths, initial=0)) for lengths in (self.queries, self.keys))
            queries, keys = (torch.tensor(end, dtype=torch.int32, device=device) for end in ends)
            self._cumulative[device] = queries, keys
        return self._cumulative[device]

    @cached_property
    def unread(self) -> list[slice]:
        """Segments of keys that no query attends to."""
        spans = zip(self.queries, self.keys, accumulate(self.keys), strict=True)
        return [slice(end - keys, end) for queries, keys, end in spans if not queries]

    @cached_property
    def batches(self) -> list[Batch]:
        """Few calls of a kernel that takes equal lengths only, with little padding."""
        queries, keys = torch.tensor(self.queries), torch.tensor(self.keys)
        members = [i for i, tokens in enumerate(self.queries) if tokens]
        groups = similar_lengths(self.queries, members) if self.causal else self._similar_pairs(members)
        batches = []
        for group in map(torch.tensor, groups):
            own, mask = _padded_indices(queries, group), None
            other = own if self.causal else _padded_indices(keys, group)  # they are kept for the backward pass
            if not self.causal and other[0] is not other[1]:
                seen = (other[1] < int(keys.sum())).view(len(group), 1, 1, -1)
                mask = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)
            batches.append(Batch(len(group), (own[0], other[0]), (own[1], other[1]), mask))
        return batches

    def _similar_pairs(self, members: Sequence[int]) -> list[list[int]]:
        """Members in groups of similar queries and keys; one of many pairs is alone."""
        few = [i for i in members if self.queries[i] * self.keys[i] <= MOST_PADDED_PAIRS]
        many = [[i] for i in members if self.queries[i] * self.keys[i] > MOST_PADDED_PAIRS]
        by_keys = similar_lengths(self.keys, few)
        return [group for few in by_keys for group in similar_lengths(self.queries, few)] + many


def _padded_indices(lengths: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """Sources and targets of the tokens of some segments; see ``Batch``."""
    starts, own = (lengths.cumsum(0) - lengths)[members, None], lengths[members, None]
    steps = torch.arange(int(own.max()))
    inside, indices = steps < own, starts + steps
    if bool(inside.all()):
        return (flat := indices.flatten()), flat
    return torch.where(inside, indices, starts).flatten(), torch.where(inside, indices, int(lengths.sum())).flatten()


@dataclass(frozen=True)
class Packing:
    """Where the prompts and the completions of N groups are in a packed row.

    Args:
        prompts: N numbers of tokens.
        completions: For each prompt, the tokens of its completions that are read (all but each one's last); may be 0.
    """

    prompts: Sequence[int]
    completions: Sequence[Sequence[int]]

    @cached_property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, which come first."""
        return sum(self.prompts)

    @cached_property
    def completion_tokens(self) -> int:
        """Tokens of all completions, which follow."""
        return sum(map(sum, self.completions))

    @cached_property
    def within(self) -> Segments:
        """Prompts and completions, causal on themselves."""
        lengths = [*self.prompts, *(tokens for group in self.completions for tokens in group)]
        return Segments(lengths, lengths, causal=True)

    @cached_property
    def across(self) -> Segments:
        """All completions of a prompt, on the whole prompt."""
        return Segments([sum(group) for group in self.completions], self.prompts, causal=False)
