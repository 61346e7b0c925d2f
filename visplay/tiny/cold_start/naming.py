"""The first stage of the cold start: the vision tower names what each cell holds, in the language model's own words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen2Tokenizer

from visplay.tiny.world import CELLS, COLOURS, COLUMNS, KINDS, ROWS, SIZES, Scene

_ABSENT = "nothing"
_MANY = tuple(f"{kind}s" for kind in KINDS)
_GROUPS = (
    CELLS,
    tuple(COLUMNS),
    tuple(ROWS),
    (_ABSENT, *COLOURS),
    (_ABSENT, *KINDS),
    (_ABSENT, *_MANY),
    (_ABSENT, *SIZES),
)


class Naming:
    """Cross-entropy of a cell's words under its merged token, with the tied embeddings as the only head.

    So the image's tokens come close to the words for what they show, and attention can find them by the
    words of a question from the first step on.

    Args:
        embeddings: One row per entry of the tokenizer.
        tokenizer: Gives the words' ids; a word counts with and without a space before it.
    """

    def __init__(self, embeddings: nn.Embedding, tokenizer: Qwen2Tokenizer) -> None:
        self._embeddings = embeddings
        self._groups = [
            (index, torch.tensor([tokenizer.encode(space + word, add_special_tokens=False)[-1] for word in words]))
            for index, words in enumerate(_GROUPS)
            for space in ("", " ")
        ]

    def loss(self, tokens: Tensor, scenes: Sequence[Scene]) -> Tensor:
        """Mean loss of a cell, summed over what is named.

        Args:
            tokens: Merged tokens in raster order, 16 for each scene, (16 B, H).
            scenes: What the B images show.
        """
        truth = torch.tensor([label for scene in scenes for label in _labels(scene)])
        logits = F.rms_norm(tokens, tokens.shape[-1:]) @ self._embeddings.weight.T
        parts = [F.cross_entropy(logits[:, ids], truth[:, index]) for index, ids in self._groups]
        return torch.stack(parts).sum() / 2


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


def _labels(scene: Scene) -> list[tuple[int, ...]]:
    """For each cell the index of its word in each group."""
    return [(index, index % len(COLUMNS), index // len(COLUMNS), *_content(scene, c)) for index, c in enumerate(CELLS)]


def _content(scene: Scene, cell: str) -> tuple[int, int, int, int]:
    shape = scene.at(cell)
    if shape is None:
        return 0, 0, 0, 0
    kind = 1 + KINDS.index(shape.kind)
    return 1 + list(COLOURS).index(shape.colour), kind, kind, 1 + list(SIZES).index(shape.size)
