"""Packed batches of the cold start: a sequence per image, with many turns about it that cannot see each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from PIL.Image import Image
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from visplay.prompts import Template, encode_prompt
from visplay.tiny.grid import CELLS

IMAGE_TOKENS = len(CELLS)
_NO_TARGET = -100


@dataclass(frozen=True)
class Turn:
    """What is asked about an image and what is to be replied.

    Args:
        template: The prompt, without a system message.
        target: The reply, without its end token.
        question: Fills the template's ``question``, if it has one.
        description: Fills the template's ``description``; such a turn is without the image.
    """

    template: Template
    target: str
    question: str | None = None
    description: str | None = None


@dataclass(frozen=True)
class Batch:
    """B rows of L tokens.

    Args:
        ids: Token ids, one placeholder for each image token, (B, L).
        positions: Rotary positions, (3, B, L).
        mask: True where a token (third axis) sees another (fourth), (B, 1, L, L); it keeps turns apart.
        targets: The next token where it is to be learned and -100 elsewhere, (B, L).
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    targets: Tensor


class Packer:
    """Turns images and turns into batches.

    Args:
        model: Places the prompt's rotary positions.
        processor: Encodes images and texts; images must be those of a small world, 16 tokens each.
    """

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor) -> None:
        self._model, self._processor = model, processor
        self._encode = lru_cache(maxsize=100_000)(self._encode_turn)

    def images(self, images: Sequence[Image]) -> dict[str, Tensor]:
        """Pixels and grids of the images."""
        return dict(self._processor.image_processor(images=list(images), return_tensors="pt"))

    def pack(self, turns: Sequence[Sequence[Turn]]) -> Batch:
        """Make one row per image from the turns about it."""
        rows = [self._row([self._encode(turn) for turn in group]) for group in turns]
        columns = zip(*rows, strict=True)
        ids, targets, segments, offsets = (_pad(column, fill) for column, fill in zip(columns, _FILL, strict=True))
        positions = [self._positions.expand(-1, len(rows), -1), self._after + offsets.expand(3, -1, -1)]
        return Batch(ids, torch.cat(positions, dim=2), _mask(segments), targets)

    @cached_property
    def _opening(self) -> list[int]:
        """The ids that every prompt begins with, up to the image's end."""
        ids = list(encode_prompt(self._processor.tokenizer, Template(user="")))
        return ids[: ids.index(self._model.config.vision_end_token_id) + 1]

    @cached_property
    def _prefix(self) -> list[int]:
        """The opening with one placeholder for every image token."""
        return expand_image(self._opening, self._processor.image_token_id)

    @cached_property
    def _positions(self) -> Tensor:
        """Rotary positions of the prefix, (3, 1, P)."""
        ids = torch.tensor([self._prefix])
        kinds = (ids == self._processor.image_token_id).int()
        return self._model.model.get_rope_index(ids, kinds, image_grid_thw=torch.tensor([[1, 8, 8]]))[0]

    @property
    def _after(self) -> int:
        return int(self._positions.max()) + 1

    def _encode_turn(self, turn: Turn) -> tuple[list[int], int, bool]:
        """Ids of a turn after the prefix, how many of them are the reply's, and whether it sees the prefix."""
        tokenizer = self._processor.tokenizer
        filled = {"question": turn.question, "description": turn.description}
        fields = {name: text for name, text in filled.items() if text is not None}
        sees = turn.description is None
        prompt = encode_prompt(tokenizer, turn.template, images=int(sees), **fields)
        reply = tokenizer.encode(turn.target + tokenizer.eos_token, add_special_tokens=False)
        return [*prompt[len(self._opening) if sees else 0 :], *reply], len(reply), sees

    def _row(self, turns: list[tuple[list[int], int, bool]]) -> tuple[list[int], list[int], list[int], list[int]]:
        """Ids, targets, segments and the turns' own positions, from the end of the prefix.

        Segments of turns are 1, 2, ...; the prefix is 0, and turns without the image are -2, -3, ...
        """
        ids, segments = list(self._prefix), [0] * len(self._prefix)
        targets, offsets = [_NO_TARGET] * len(self._prefix), list[int]()
        for number, (turn, learned, sees) in enumerate(turns, 1):
            ids += turn
            targets += [_NO_TARGET] * (len(turn) - learned - 1) + turn[-learned:] + [_NO_TARGET]
            segments += [number if sees else -1 - number] * len(turn)
            begin = 0 if sees else -self._after
            offsets += range(begin, begin + len(turn))
        return ids, targets, segments, offsets


def expand_image(ids: Sequence[int], placeholder: int) -> list[int]:
    """Token ids with one placeholder for every image token, instead of one for the image."""
    return [each for token in ids for each in [token] * (IMAGE_TOKENS if token == placeholder else 1)]


_FILL = (0, _NO_TARGET, -1, 0)


def _pad(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])


def _mask(segments: Tensor) -> Tensor:
    """True where a token (third axis) sees another (fourth): earlier, and of its own turn or of the prefix."""
    same = segments[:, :, None] == segments[:, None, :]
    same |= (segments[:, :, None] > 0) & (segments[:, None, :] == 0)
    return (same & torch.ones(same.shape[1:], dtype=torch.bool).tril())[:, None]
