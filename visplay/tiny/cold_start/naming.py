"""The first stage of the cold start: the vision tower names what each cell holds, in the language model's own words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen2Tokenizer

from visplay.tiny.grid import CELLS, COLUMNS, ROWS
from visplay.tiny.world import World


class Naming:
    """Cross-entropy of a cell's words under its merged token, with the tied embeddings as the only head.

    So the image's tokens come close to the words for what they show, and attention can find them by the
    words of a question from the first step on.

    Args:
        world: The world.
        embeddings: One row per entry of the tokenizer.
        tokenizer: Gives the words' ids; a word counts with and without a space before it.
    """

    def __init__(self, world: World, embeddings: nn.Embedding, tokenizer: Qwen2Tokenizer) -> None:
        self._world = world
        self._embeddings = embeddings
        self._groups = [
            (index, torch.tensor([tokenizer.encode(space + word, add_special_tokens=False)[-1] for word in words]))
            for index, words in enumerate((CELLS, tuple(COLUMNS), tuple(ROWS), *world.contents))
            for space in ("", " ")
        ]

    def loss(self, tokens: Tensor, scenes: Sequence[Any]) -> Tensor:
        """Mean loss of a cell, summed over what is named.

        Args:
            tokens: Merged tokens in raster order, 16 for each scene, (16 B, H).
            scenes: What the B images show.
        """
        truth = torch.tensor([label for scene in scenes for label in self._labels(scene)])
        logits = F.rms_norm(tokens, tokens.shape[-1:]) @ self._embeddings.weight.T
        parts = [F.cross_entropy(logits[:, ids], truth[:, index]) for index, ids in self._groups]
        return torch.stack(parts).sum() / 2

    def _labels(self, scene: Any) -> list[tuple[int, ...]]:
        """For each cell the index of its word in each group."""
        contents = (self._world.content_of(scene, cell) for cell in CELLS)
        return [(i, i % len(COLUMNS), i // len(COLUMNS), *content) for i, content in enumerate(contents)]


@torch.no_grad()
def match_scale(last: nn.Linear, tokens: Tensor, embeddings: Tensor) -> None:
    """Scale the vision tower's last layer so that its tokens are half as large again as words.

    Naming leaves their scale open, and a layer's contribution to a far larger token would be lost in it.

    Args:
        last: The layer to scale, in place.
        tokens: Some of its outputs, (N, H).
        embeddings: The words, (V, H).
    """
    factor = 1.5 * embeddings.square().mean().sqrt() / tokens.square().mean().sqrt()
    last.weight.mul_(factor)
    last.bias.mul_(factor)
