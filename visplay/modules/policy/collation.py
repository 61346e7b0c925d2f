"""Prompts as a VLM takes them: placeholders expanded, padded, every distinct image processed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from visplay.modules.policy.family import Family
from visplay.types import Prompt


class PromptTooLongError(ValueError):
    """A prompt, with its images expanded, does not fit the model's context."""


class ImageFeaturesError(RuntimeError):
    """A family gives an image another number of features than it has tokens for them."""


@dataclass(frozen=True)
class PromptBatch:
    """N prompts as the model takes them, padded on the left.

    Args:
        input_ids: (N, P) ids, each image's placeholder expanded to its tokens.
        mask: (N, P) bool, False at padding.
        positions: Rotary positions in the family's own shape, last axis P.
        next_position: (N,) position of the first completion token.
        pixels: What the family's ``image_features`` takes, for the distinct images only; None without images.
        image_index: For every placeholder, in order, the index of its image among the distinct ones.
    """

    input_ids: Tensor
    mask: Tensor
    positions: Tensor
    next_position: Tensor
    pixels: Any
    image_index: tuple[int, ...]


def collate(family: Family, prompts: Sequence[Prompt]) -> PromptBatch:
    """Expand placeholders and pad N prompts on the left; each distinct image is processed once.

    Raises:
        PromptTooLongError: A prompt exceeds ``context_tokens``.
        ValueError: A prompt has not one placeholder per image.
    """
    distinct = {id(image): image for prompt in prompts for image in prompt.images}
    slots = {identity: index for index, identity in enumerate(distinct)}
    pixels = family.process_images(list(distinct.values())) if distinct else None
    sequences = [_expand(family, prompt) for prompt in prompts]
    width = max(map(len, sequences))
    pad = family.tokenizer.pad_token_id or 0  # some have none, and none is read
    input_ids = torch.tensor([[pad] * (width - len(ids)) + ids for ids in sequences])
    mask = torch.tensor([[False] * (width - len(ids)) + [True] * len(ids) for ids in sequences])
    image_index = tuple(slots[id(image)] for prompt in prompts for image in prompt.images)
    positions = family.prompt_positions(input_ids, mask, pixels, image_index)
    next_position = positions.reshape(-1, *input_ids.shape).masked_fill(~mask, -1).amax((0, 2)) + 1
    to = family.device
    return PromptBatch(input_ids.to(to), mask.to(to), positions.to(to), next_position.to(to), pixels, image_index)


def _expand(family: Family, prompt: Prompt) -> list[int]:
    ids = family.expand(prompt)
    if len(ids) > family.context_tokens:
        images = sum(family.image_tokens(image) for image in prompt.images)
        raise PromptTooLongError(
            f"prompt {prompt.key!r}: {len(ids)} tokens ({images} of them images) exceed the context of "
            f"{family.context_tokens}; lower max_pixels or shorten the template"
        )
    return ids


def embed(family: Family, input_ids: Tensor, batch: PromptBatch) -> Tensor:
    """Embed the ids of a batch of prompts, (N, P) or without padding (L,), with the features of their images.

    Returns:
        (…, H), or wider where the family's features are; see ``widen``.

    Raises:
        ImageFeaturesError: There are more features than tokens for them, or fewer.
    """
    embeddings = family.model.get_input_embeddings()(input_ids)
    if batch.pixels is None:
        return embeddings
    images = family.image_features(batch.pixels)
    features = torch.cat([images[index] for index in batch.image_index]).to(embeddings.dtype)
    embeddings = widen(embeddings, features.shape[-1])
    where = input_ids == family.feature_token_id
    if len(features) != int(where.sum()):
        tokens, kind = int(where.sum()), type(family).__name__
        raise ImageFeaturesError(f"{kind}: {tokens} image tokens for {len(features)} features")
    return embeddings.masked_scatter(where.unsqueeze(-1), features)


def widen(embeddings: Tensor, width: int) -> Tensor:
    """Append zeros to embeddings of text, (…, H), up to the width of the features of images.

    What an image's features have beyond H is for later layers, see ``Family.text_inputs``; text has nothing for them.
    """
    extra = width - embeddings.shape[-1]
    return functional.pad(embeddings, (0, extra)) if extra else embeddings
