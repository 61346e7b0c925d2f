"""Prompts as a VLM takes them: placeholders expanded, padded, every distinct image processed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from visplay.types import Prompt

if TYPE_CHECKING:
    from visplay.modules.policy.vlm import VLM


class PromptTooLongError(ValueError):
    """A prompt, with its images expanded, does not fit the model's context."""


@dataclass(frozen=True)
class PromptBatch:
    """N prompts as the model takes them, padded on the left.

    Args:
        input_ids: (N, P) ids, each image's placeholder expanded to its tokens.
        mask: (N, P) bool, False at padding.
        positions: Rotary positions in the family's own shape, last axis P.
        next_position: (N,) position of the first completion token.
        pixels: What the family's ``image_features`` takes, for the distinct images only; None without images.
        image_index: For every placeholder run, in row order, the index of its image among the distinct ones.
    """

    input_ids: Tensor
    mask: Tensor
    positions: Tensor
    next_position: Tensor
    pixels: Any
    image_index: tuple[int, ...]


def collate(vlm: VLM, prompts: Sequence[Prompt]) -> PromptBatch:
    """Expand placeholders and pad on the left; each distinct image is processed once.

    Args:
        vlm: Whose tokens, images and positions these are.
        prompts: N prompts.

    Raises:
        PromptTooLongError: A prompt exceeds ``context_tokens``.
        ValueError: A prompt has not one placeholder per image.
    """
    distinct = {id(image): image for prompt in prompts for image in prompt.images}
    place = {identity: index for index, identity in enumerate(distinct)}
    pixels = vlm.process_images(list(distinct.values())) if distinct else None
    rows = [_expand(vlm, prompt) for prompt in prompts]
    width = max(len(row) for row in rows)
    input_ids = torch.tensor([[vlm.tokenizer.pad_token_id] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    image_index = tuple(place[id(image)] for prompt in prompts for image in prompt.images)
    positions = vlm.prompt_positions(input_ids, mask, pixels, image_index)
    next_position = positions.reshape(-1, *input_ids.shape).masked_fill(~mask, -1).amax((0, 2)) + 1
    to = vlm.device
    return PromptBatch(input_ids.to(to), mask.to(to), positions.to(to), next_position.to(to), pixels, image_index)


def _expand(vlm: VLM, prompt: Prompt) -> list[int]:
    """Put the tokens of its image in the place of each placeholder."""
    expanded = [vlm.image_token_ids(image) for image in prompt.images]
    if prompt.token_ids.count(vlm.image_token_id) != len(expanded):
        raise ValueError(
            f"prompt {prompt.key!r}: {prompt.token_ids.count(vlm.image_token_id)} image placeholders for "
            f"{len(expanded)} images; one each is needed"
        )
    images = iter(expanded)
    row: list[int] = []
    for token in prompt.token_ids:
        row += next(images) if token == vlm.image_token_id else [token]
    if len(row) > vlm.context_tokens:
        raise PromptTooLongError(
            f"prompt {prompt.key!r}: {len(row)} tokens ({sum(map(len, expanded))} of them images) exceed the context "
            f"of {vlm.context_tokens}; lower max_pixels or shorten the template"
        )
    return row


def widen(embeddings: Tensor, width: int) -> Tensor:
    """Append zeros to embeddings of text, (…, H), so that they stand beside features of a width of H or more.

    What an image's features have beyond H is for later layers, see ``Family.text_inputs``; text has nothing for them.
    """
    extra = width - embeddings.shape[-1]
    return functional.pad(embeddings, (0, extra)) if extra else embeddings
