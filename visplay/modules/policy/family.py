"""What a model family says of itself; all else follows from it in ``visplay.modules.policy.vlm``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from PIL.Image import Image
from torch import Tensor, nn
from transformers import DynamicCache

from visplay.modules.policy.attention import GROUPED_SDPA, why_not_attended
from visplay.modules.policy.loading import Part
from visplay.types import Prompt


class Family(nn.Module, ABC):
    """The differences between model families; a family subclasses ``VLM`` and fills them in.

    Attributes:
        model: The Hugging Face model.
        processor: Its processor.
        path: Directory or Hub name of its checkpoint.
        revision: Hub revision of that.
        max_context_tokens: Most tokens of a sequence; None is what the model was made for.
        gradient_checkpointing: Whether activations are computed again in the backward pass.
        packs: Whether groups can be packed into one row: text attends causally to all before it and nothing else, and
            its language model hands keyword arguments on to its attention.
    """

    packs: ClassVar[bool] = False
    model: Any
    processor: Any
    path: str
    revision: str | None
    max_context_tokens: int | None
    gradient_checkpointing: bool

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def context_tokens(self) -> int:
        """Most tokens of a sequence, images expanded."""
        return min(self.model_context_tokens, self.max_context_tokens or self.model_context_tokens)

    def prompt_tokens(self, prompt: Prompt) -> int:
        """P: tokens of a prompt with its images expanded."""
        return len(prompt.token_ids) + sum(self.image_tokens(image) - 1 for image in prompt.images)

    @property
    def image_token_id(self) -> int:
        """Id of the placeholder that stands for an image: the processor's."""
        return self.processor.image_token_id

    @property
    def text_model(self) -> Any:
        """The language model without its head."""
        return self.model.model.language_model

    @property
    def model_context_tokens(self) -> int:
        """Most tokens that the model takes in a sequence, images expanded: ``max_position_embeddings``."""
        return self.model.config.text_config.max_position_embeddings

    @property
    @abstractmethod
    def most_image_tokens(self) -> int:
        """Most tokens that an image can become."""

    @abstractmethod
    def image_tokens(self, image: Image) -> int:
        """How many tokens an image becomes."""

    def image_token_ids(self, image: Image) -> Sequence[int]:
        """The tokens an image becomes; each that is ``image_token_id`` takes one row of the image's features."""
        return [self.image_token_id] * self.image_tokens(image)

    @abstractmethod
    def limit_pixels(self, min_pixels: int | None, max_pixels: int | None) -> None:
        """Set the areas that images are scaled to; None leaves the checkpoint's."""

    @property
    @abstractmethod
    def processor_settings(self) -> dict[str, Any]:
        """What another processor of the same checkpoint must be told to cut images as this one does."""

    def released_name(self, name: str) -> str:
        """The name that released checkpoints, and engines, have for a weight of the model."""
        return name

    @abstractmethod
    def parts(self) -> dict[Part, Sequence[nn.Module]]:
        """The modules of each part that can be frozen."""

    @abstractmethod
    def process_images(self, images: Sequence[Image]) -> Any:
        """Turn images into what ``image_features`` takes."""

    @abstractmethod
    def image_features(self, pixels: Any) -> Sequence[Tensor]:
        """Run the vision tower: one (tokens, H) tensor per image; columns beyond H go to ``text_inputs``."""

    def prompt_positions(self, input_ids: Tensor, mask: Tensor, pixels: Any, image_index: Sequence[int]) -> Tensor:
        """Rotary positions of prompts, last two axes (N, P); one after another where a family says nothing else."""
        return (mask.long().cumsum(-1) - 1).clamp(min=0)

    def text_positions(self, positions: Tensor) -> Tensor:
        """Give (B, T) text positions the family's own shape."""
        return positions

    def text_inputs(self, embeddings: Tensor) -> dict[str, Any]:
        """What the language model is called with for embeddings (B, T, H), wider where features have been wider."""
        return {"inputs_embeds": embeddings}

    def language_model(self, embeddings: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
        """Run the language model on (B, T, H) embeddings after what the cache holds; returns (B, T, H)."""
        return self.text_model(
            **self.text_inputs(embeddings),
            attention_mask=None if bool(mask.all()) else mask.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state

    def why_not_packed(self) -> str | None:
        """Why groups are not packed into one row; None where they are."""
        if not self.packs:
            return f"{type(self).__name__} does not say that it can be"
        config = self.text_model.config
        if config._attn_implementation != GROUPED_SDPA:
            return f"attn_implementation is {config._attn_implementation!r}, not {GROUPED_SDPA!r}"
        windows = set(getattr(config, "layer_types", ())) - {"full_attention"}
        if windows or getattr(config, "attention_dropout", 0.0) > 0:
            return "some layers attend within a window, or with dropout"
        device = self.model.device
        in_autocast = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if in_autocast else self.model.dtype
        return why_not_attended(device, dtype)
