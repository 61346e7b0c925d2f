"""Sequences as a VLM holds them between two calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):
    """Keys and values with room to grow: a step writes its own entry where a plain layer copies all of them.

    Without gradients only: entries are written in place. Room is made for a quarter more, and at least 32 tokens,
    whenever it has run out.
    """

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.length = 0
        self.buffers: list[Tensor] = []

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add the keys and values of T tokens, (B, heads, T, D); returns those of all tokens so far."""
        start, self.length = self.length, self.length + key_states.shape[2]
        if not self.buffers or self.length > self.buffers[0].shape[2]:
            held = (self.keys, self.values) if start else (key_states[:, :, :0], value_states[:, :, :0])
            self.buffers = [self._with_room(states) for states in held]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, start : self.length] = states
        self.keys, self.values = (buffer[:, :, : self.length] for buffer in self.buffers)
        self.is_initialized = True
        return self.keys, self.values

    def _with_room(self, states: Tensor) -> Tensor:
        room = self.length + max(32, self.length // 4)
        buffer = states.new_empty((*states.shape[:2], room, states.shape[3]))
        buffer[:, :, : states.shape[2]] = states
        return buffer


def take_rows(cache: DynamicCache, rows: Tensor, layer_type: type[DynamicLayer] = DynamicLayer) -> DynamicCache:
    """Copy the keys and values of the given sequences (B,), in that order, into layers of a type."""
    taken = DynamicCache()
    for layer in cache.layers:
        copied = layer_type()
        copied.update(layer.keys[rows], layer.values[rows])
        taken.layers.append(copied)
    return taken


@dataclass(frozen=True)
class Context:
    """B sequences as the model has read them so far.

    Args:
        cache: Keys and values of L positions; extended in place by ``VLM.extend``.
        mask: (B, L) bool, False at padding.
        next_position: (B,) rotary position of the next token.
    """

    cache: DynamicCache
    mask: Tensor
    next_position: Tensor

    def take(self, rows: Tensor, *, to_sample: bool = False) -> Context:
        """Copy the given sequences, in that order; one may be taken many times.

        Args:
            rows: (B,) row numbers.
            to_sample: Whether many short extensions follow, without gradients; else gradients flow through the copies.
        """
        cache = take_rows(self.cache, rows, RoomyLayer if to_sample else DynamicLayer)
        return Context(cache, self.mask[rows], self.next_position[rows])


def similar_lengths(lengths: Tensor) -> list[Tensor]:
    """Group row numbers by similar length, so that little is computed for padding.

    Args:
        lengths: (B,) tokens of each row.

    Returns:
        Row numbers; every row is in one group, whose lengths differ by at most half and four tokens.

    Example:
        >>> import torch
        >>> [group.tolist() for group in similar_lengths(torch.tensor([2, 30, 3, 28]))]
        [[0, 2], [3, 1]]
    """
    order = lengths.argsort(stable=True)
    buckets, start = [], 0
    for stop in range(1, len(order) + 1):
        if stop == len(order) or lengths[order[stop]] > 1.5 * lengths[order[start]] + 4:
            buckets.append(order[start:stop])
            start = stop
    return buckets
