"""What a model family says of itself; all else follows from it in ``visplay.modules.vlm``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from PIL.Image import Image
from torch import Tensor, nn
from transformers import DynamicCache

from visplay.modules.loading import Part


class Family(nn.Module, ABC):
    """The differences between model families; a family subclasses ``VLM`` and fills them in.

    Attributes:
        model: The Hugging Face model.
        processor: Its processor.
    """

    model: Any
    processor: Any

    @property
    @abstractmethod
    def image_token_id(self) -> int:
        """Id of the placeholder that stands for a picture."""

    @property
    @abstractmethod
    def model_context_tokens(self) -> int:
        """Most tokens that the model takes in a sequence, pictures expanded."""

    @property
    @abstractmethod
    def most_image_tokens(self) -> int:
        """Tokens of a picture of the largest area."""

    @abstractmethod
    def image_tokens(self, image: Image) -> int:
        """How many tokens a picture becomes."""

    @abstractmethod
    def limit_pixels(self, min_pixels: int | None, max_pixels: int | None) -> None:
        """Set the areas that pictures are scaled to; None leaves the checkpoint's."""

    @property
    @abstractmethod
    def processor_settings(self) -> dict[str, Any]:
        """What another processor of the same checkpoint must be told to cut pictures as this one does."""

    @abstractmethod
    def parts(self) -> dict[Part, Sequence[nn.Module]]:
        """The modules of each part that can be frozen."""

    @abstractmethod
    def process_images(self, images: Sequence[Image]) -> Any:
        """Turn pictures into what ``image_features`` takes."""

    @abstractmethod
    def image_features(self, pixels: Any) -> Sequence[Tensor]:
        """Run the vision tower: one (tokens, H) tensor per picture."""

    @abstractmethod
    def prompt_positions(self, input_ids: Tensor, mask: Tensor, pixels: Any, image_index: Sequence[int]) -> Tensor:
        """Rotary positions of prompts, last two axes (N, P)."""

    @abstractmethod
    def text_positions(self, positions: Tensor) -> Tensor:
        """Give (B, T) text positions the family's own shape."""

    def language_model(self, embeddings: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
        """Run the language model on (B, T, H) embeddings after what the cache holds; returns (B, T, H)."""
        return self.model.model.language_model(
            inputs_embeds=embeddings,
            attention_mask=None if bool(mask.all()) else mask.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
