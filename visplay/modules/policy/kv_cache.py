"""What a VLM keeps of sequences between two calls."""

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
            filled = (self.keys, self.values) if start else (key_states[:, :, :0], value_states[:, :, :0])
            self.buffers = [self._with_room(states) for states in filled]
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


@dataclass(frozen=True)
class KVCache:
    """B sequences as the model has read them so far.

    Args:
        layers: Keys and values of L positions; extended in place by ``VLM.extend``.
        mask: (B, L) bool, False at padding.
        next_position: (B,) rotary position of the next token.
    """

    layers: DynamicCache
    mask: Tensor
    next_position: Tensor

    def take(self, sequences: Tensor, *, to_sample: bool = False) -> KVCache:
        """Copy sequences (B,), in that order; one may be taken many times.

        Args:
            sequences: Their numbers.
            to_sample: Whether many short extensions follow, without gradients; else gradients flow through the copies.
        """
        taken = DynamicCache()
        for layer in self.layers.layers:
            copied = RoomyLayer() if to_sample else DynamicLayer()
            copied.update(layer.keys[sequences], layer.values[sequences])
            taken.layers.append(copied)
        return KVCache(taken, self.mask[sequences], self.next_position[sequences])


def similar_lengths(lengths: Tensor) -> list[Tensor]:
    """Group sequences by similar length, so that little is computed for padding.

    Args:
        lengths: (B,) tokens of each sequence.

    Returns:
        Their numbers; every sequence is in one group, whose lengths differ by at most half and four tokens.

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
