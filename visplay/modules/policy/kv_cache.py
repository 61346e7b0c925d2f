"""What a VLM keeps of sequences between two calls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


def similar_lengths(lengths: Sequence[int], members: Iterable[int] | None = None) -> list[list[int]]:
    """Group sequences by similar length, so that little is computed for padding.

    Args:
        lengths: Tokens of each sequence.
        members: Numbers of those to group; None groups all.

    Returns:
        Their numbers; every one is in one group, whose lengths differ by at most half and four tokens.

    Example:
        >>> similar_lengths([2, 30, 3, 28])
        [[0, 2], [3, 1]]
    """
    groups: list[list[int]] = []
    for number in sorted(range(len(lengths)) if members is None else members, key=lengths.__getitem__):
        if not groups or lengths[number] > 1.5 * lengths[groups[-1][0]] + 4:
            groups.append([])
        groups[-1].append(number)
    return groups
