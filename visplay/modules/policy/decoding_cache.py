"""What is kept of sequences while they are sampled: each prompt once for all of its completions, where that can be.

Two forms with the same calls. ``GroupedCache`` has the keys and values of each prompt one time; a completion attends to
those and to its own, and both parts are merged by their logsumexps as in ``visplay.modules.policy.attention``.
Completions come and go at any step and may be of any length. ``PaddedCache`` is for the families whose attention is not
plainly causal: every completion has a copy of its prompt, and all of them go on in step.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from visplay.modules.policy.attention import GROUPED_SDPA, attend_with_logsumexp
from visplay.modules.policy.family import Family
from visplay.modules.policy.kv_cache import KVCache
from visplay.modules.policy.prefill import extend

KeysValues = tuple[Tensor, Tensor]
"""Of one layer, (sequences, heads, tokens, D) each."""


class DecodingCache(Protocol):
    """What sampling needs of a cache.

    Attributes:
        joins: Whether sequences may be added while others are under way, and each may read tokens of its own number.
        dense: Sequences that have ended are taken out when no more than this fraction of all is left.
    """

    joins: bool
    dense: float

    def add(self, prompts: KVCache, n: int) -> None:
        """Add ``n`` sequences for each of N prompts that were read, prompt by prompt."""

    def keep(self, sequences: Tensor) -> None:
        """Go on with these of the sequences alone, (B,), in that order."""

    def read(self, token_ids: Tensor) -> Tensor:
        """Read T tokens of each sequence, (B, T); returns hidden states (B, T, H), each predicting the token after."""

    def advance(self, counts: Tensor) -> None:
        """Keep so many of the tokens that were read last, (B,) of at least 1, and forget those behind them."""


def decoding_cache(family: Family, limit: int) -> DecodingCache:
    """The cache that suits a family, for sequences of at most so many tokens behind their prompts."""
    grouped = family.text_model.config._attn_implementation == GROUPED_SDPA and family.why_never_packed() is None
    return GroupedCache(family, limit) if grouped else PaddedCache(family)


class PaddedCache:
    """Sequences with a copy of their prompt each, which are all added at once."""

    joins = False
    dense = 0.75

    def __init__(self, family: Family) -> None:
        self._family = family
        self._cache: KVCache

    def add(self, prompts: KVCache, n: int) -> None:
        """Begin with ``n`` sequences for each of N prompts."""
        rows = torch.arange(len(prompts.mask), device=prompts.mask.device)
        self._cache = prompts.take(rows.repeat_interleave(n), to_sample=True)

    def keep(self, sequences: Tensor) -> None:
        """Copy what is left."""
        self._cache = self._cache.take(sequences, to_sample=True)

    def read(self, token_ids: Tensor) -> Tensor:
        """Read a token of each sequence, (B, 1); returns (B, 1, H)."""
        hidden, self._cache = extend(self._family, self._cache, token_ids)
        return hidden

    def advance(self, counts: Tensor) -> None:
        """The token that was read stays."""


class GroupedCache:
    """B sequences behind N prompts, which are kept once.

    Args:
        family: Whose language model hands keyword arguments on to its attention, which is plainly causal.
        limit: Most tokens of a sequence behind its prompt.
    """

    joins = True
    dense = 1.0

    def __init__(self, family: Family, limit: int) -> None:
        self._family = family
        self._limit = limit
        self._prompts: list[KeysValues] = []  # by layer: (N, heads, P, D), padded on the left
        self._own: list[KeysValues] = []  # by layer: (at least B, heads, room, D)
        device = family.device
        self._mask = torch.zeros(0, 0, dtype=torch.bool, device=device)  # (N, P)
        self._biases = (torch.zeros(()), torch.zeros(()))  # of a prompt's tokens, and of a sequence's own
        self._of = torch.zeros(0, dtype=torch.long, device=device)  # (B,) prompt of each sequence
        self._lengths = self._of  # (B,) tokens behind it
        self._starts = self._of  # (B,) rotary position of the first of them
        self._columns = self._of[:, None]  # (B, T) where the tokens that are read go among a sequence's own
        self._places = self._of  # (B · heads · T,) that is among all, head by head
        self._spread: _Spread | None = None

    def add(self, prompts: KVCache, n: int) -> None:
        """Add ``n`` sequences for each of N prompts, which are taken over."""
        self._drop_prompts()
        before, width = len(self._mask), max(self._mask.shape[1], prompts.mask.shape[1])
        for number, layer in enumerate(prompts.layers.layers):
            keys, values = layer.keys.to(layer.values.dtype), layer.values  # autocast leaves keys in float32
            if not self._own[number:]:
                self._own.append((keys[:0, :, :0], values[:0, :, :0]))
                self._prompts.append((keys, values))
            elif before:  # layer by layer, so that no more than one is there twice
                keys, values = (
                    torch.cat([_widen(old, width), _widen(new, width)])
                    for old, new in zip(self._prompts[number], (keys, values), strict=True)
                )
                layer.keys = layer.values = None
            self._prompts[number] = keys, values
        self._mask = torch.cat([pad(mask, (width - mask.shape[1], 0)) for mask in (self._mask, prompts.mask)])
        new = torch.arange(len(prompts.mask), device=self._of.device).repeat_interleave(n)
        self._of = torch.cat([self._of, new + before])
        self._lengths = torch.cat([self._lengths, torch.zeros_like(new)])
        self._starts = torch.cat([self._starts, prompts.next_position[new]])
        self._spread = None

    def _drop_prompts(self) -> None:
        """Drop the prompts that no sequence is left of."""
        used, self._of = self._of.unique(return_inverse=True)
        if len(used) < len(self._mask):
            self._mask = self._mask[used] if len(used) else self._mask[:0, :0]
            for number, (keys, values) in enumerate(self._prompts):
                self._prompts[number] = keys[used], values[used]

    def keep(self, sequences: Tensor) -> None:
        """Go on with these alone; those that stay where they are, or have not read anything, are not copied."""
        rows, written = torch.arange(len(sequences), device=sequences.device), len(self._own[0][0])
        moved = ((sequences != rows) & (sequences < written)).nonzero().squeeze(1)
        for states in (part for layer in self._own for part in layer):
            states[moved] = states[sequences[moved]]
        self._of, self._lengths, self._starts = (rows[sequences] for rows in (self._of, self._lengths, self._starts))
        if 2 * len(self._of.unique()) <= len(self._mask):
            self._drop_prompts()
        self._spread = None

    def read(self, token_ids: Tensor) -> Tensor:
        """Read T tokens of each sequence, (B, T); returns (B, T, H)."""
        self._make_room(token_ids.shape[1])
        self._spread = self._spread or _Spread(self._of, len(self._mask))
        self._columns = self._lengths[:, None] + torch.arange(token_ids.shape[1], device=token_ids.device)  # (B, T)
        heads, room = self._own[0][0].shape[1:3]
        firsts = torch.arange(0, len(token_ids) * heads * room, room, device=token_ids.device)
        self._places = (firsts.view(-1, heads, 1) + self._columns[:, None]).flatten()
        steps = torch.arange(int(self._columns.max()) + 1, device=token_ids.device)
        self._biases = _bias(self._mask[:, None]), _bias(steps <= self._columns[..., None])
        embeddings = self._family.model.get_input_embeddings()(token_ids)
        return self._family.text_model(
            **self._family.text_inputs(embeddings),
            attention_mask=embeddings.new_ones(1, 1, 1, 1, dtype=torch.bool),  # a stand-in, so that no mask is made
            position_ids=self._family.text_positions(self._columns + self._starts[:, None]),
            use_cache=False,
            decoding=self,
        ).last_hidden_state

    def advance(self, counts: Tensor) -> None:
        """Keep so many of the tokens that were read last, (B,)."""
        self._lengths = self._lengths + counts

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention of a layer for T more tokens of each sequence, whose keys and values are added.

        Args:
            layer: Its number.
            query: (B, heads, T, D).
            key: (B, key-value heads, T, D).
            value: Like ``key``.
            scale: Factor of the scores.

        Returns:
            (B, T, heads, D).
        """
        assert self._spread is not None, "read has made it"
        before_bias, behind_bias = self._biases
        size, heads, tokens, width = key.shape
        for buffer, states in zip(self._own[layer], (key, value), strict=True):
            buffer.flatten(0, 2).index_copy_(0, self._places, states.flatten(0, 2).to(buffer.dtype))
        keys, values = (buffer[:size, :, : behind_bias.shape[-1]] for buffer in self._own[layer])
        queries = query.to(keys.dtype).reshape(
            size, heads, -1, width
        )  # those of all heads that a key serves, T of each
        served = queries.shape[2] // tokens
        if tokens > 1:
            behind_bias = behind_bias.expand(size, served, tokens, -1).flatten(1, 2)[:, None]
        behind, gamma = attend_with_logsumexp(queries, keys, values, behind_bias, scale)
        before, beta = attend_with_logsumexp(self._spread.to_grid(queries), *self._prompts[layer], before_bias, scale)
        before, beta = self._spread.to_rows(before, queries.shape[2]), self._spread.to_rows(beta, queries.shape[2])
        out = behind.lerp_(before, torch.sigmoid(beta - gamma).to(behind.dtype)[..., None])
        return out.reshape(query.shape).transpose(1, 2)

    def _make_room(self, more: int) -> None:
        """See that each sequence has room for so many more tokens."""
        size, tokens = len(self._of), int(self._lengths.max()) + more
        capacity, room = self._own[0][0].shape[::2]
        if size <= capacity and tokens <= room:
            return
        if tokens > room:
            room = max(tokens, min(self._limit, tokens + max(32, tokens // 4)))
        for number, (keys, values) in enumerate(self._own):
            self._own[number] = _enlarge(keys, max(size, capacity), room), _enlarge(values, max(size, capacity), room)


def _enlarge(states: Tensor, size: int, room: int) -> Tensor:
    """Keys or values with zeros for more sequences and more tokens of each."""
    larger = states.new_zeros(size, states.shape[1], room, states.shape[3])
    larger[: states.shape[0], :, : states.shape[2]] = states
    return larger


class _Spread:
    """Where the queries of B sequences are in a grid with a row for each of N prompts.

    Args:
        of: (B,) prompt of each sequence.
        prompts: N.
    """

    def __init__(self, of: Tensor, prompts: int) -> None:
        counts = torch.bincount(of, minlength=prompts)
        order = of.argsort(stable=True)
        ranks = torch.arange(len(of), device=of.device) - (counts.cumsum(0) - counts)[of[order]]
        self.prompts, self.width = prompts, int(counts.max())
        places = torch.empty_like(of)
        places[order] = of[order] * self.width + ranks
        self.places = places
        self.full = len(of) == prompts * self.width and bool((places == torch.arange(len(of), device=of.device)).all())

    def to_grid(self, rows: Tensor) -> Tensor:
        """(B, heads, Q, D) to (N, heads, width · Q, D), zero where there is no sequence."""
        if not self.full:
            grid = rows.new_zeros(self.prompts * self.width, *rows.shape[1:])
            rows = grid.index_copy_(0, self.places, rows)
        return rows.unflatten(0, (self.prompts, self.width)).transpose(1, 2).flatten(2, 3)

    def to_rows(self, grid: Tensor, queries: int) -> Tensor:
        """(N, heads, width · Q, …) to (B, heads, Q, …)."""
        rows = grid.unflatten(2, (self.width, queries)).transpose(1, 2).flatten(0, 1)
        return rows if self.full else rows.index_select(0, self.places)


def _bias(visible: Tensor) -> Tensor:
    """What is added to scores, (B, 1, T, L), where keys (B, T, L) are visible or not."""
    return torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, -torch.inf)[:, None]


def _widen(states: Tensor, width: int) -> Tensor:
    """Keys or values (N, heads, P, D), padded on the left."""
    return pad(states, (0, 0, width - states.shape[2], 0))
