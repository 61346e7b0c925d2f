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
from visplay.modules.policy.contract import AttentionContract, model_masks, read_contract
from visplay.modules.policy.expansion import expand
from visplay.modules.policy.weights.loading import Part
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
        packs: Whether groups can be packed into one row where ``attention`` is plainly causal: the language model hands
            keyword arguments on to its attention.
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

    @property
    def takes_images(self) -> bool:
        """Whether it can be asked about images."""
        return self.most_image_tokens > 0

    def prompt_tokens(self, prompt: Prompt) -> int:
        """P: tokens of a prompt with its images expanded."""
        return len(self.expand(prompt))

    def expand(self, prompt: Prompt) -> list[int]:
        """The tokens of a prompt with its images expanded.

        Raises:
            ValueError: It has not one placeholder per image.
        """
        placeholders = prompt.token_ids.count(self.image_token_id)
        if placeholders != len(prompt.images):
            raise ValueError(
                f"prompt {prompt.key!r}: {placeholders} image placeholders for {len(prompt.images)} images; one each "
                "is needed"
            )
        images = [self.image_token_ids(image) for image in prompt.images]
        return expand(self.tokenizer, prompt.token_ids, images, self.image_token_id)

    @property
    def image_token_id(self) -> int:
        """Id of the placeholder that stands for an image in a prompt: the processor's; -1 where none does."""
        return self.processor.image_token_id

    @property
    def feature_token_id(self) -> int:
        """Id of the tokens whose embeddings the features of an image replace: the model's; often the placeholder's."""
        found = getattr(self.model.config, "image_token_id", None)
        return self.image_token_id if found is None else found

    @property
    def attention(self) -> AttentionContract:
        """Which tokens of the language model see which: what its configuration says."""
        return read_contract(self.model, self.text_model.config)

    def token_types(self, input_ids: Tensor) -> Tensor:
        """Of a prompt's tokens, what a model in which images attend both ways is told of them: 1 for an image's."""
        return (input_ids == self.feature_token_id).long()

    @property
    def text_model(self) -> Any:
        """The language model without its head."""
        return self.model.model.language_model

    @property
    def model_context_tokens(self) -> int:
        """Most tokens that the model takes in a sequence, images expanded: ``max_position_embeddings``."""
        return self.model.config.get_text_config().max_position_embeddings

    @property
    @abstractmethod
    def most_image_tokens(self) -> int:
        """Most tokens that an image can become."""

    @abstractmethod
    def image_tokens(self, image: Image) -> int:
        """How many tokens an image becomes."""

    def image_token_ids(self, image: Image) -> Sequence[int]:
        """The tokens an image becomes; each that is ``feature_token_id`` takes one row of the image's features."""
        return [self.feature_token_id] * self.image_tokens(image)

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

    def language_model(
        self,
        embeddings: Tensor,
        mask: Tensor,
        positions: Tensor,
        cache: DynamicCache,
        token_types: Tensor | None = None,
    ) -> Tensor:
        """Run the language model after what the cache holds.

        Args:
            embeddings: (B, T, H).
            mask: (B, L + T) bool, of what the cache holds too; False at padding.
            positions: Rotary positions of the T tokens.
            cache: Keys and values of L tokens; those of the T tokens are added.
            token_types: (B, T), see ``token_types``; given for a whole prompt whose images attend both ways.

        Returns:
            Hidden states (B, T, H).
        """
        masks = None if bool(mask.all()) else mask.long()
        if token_types is not None:
            config = self.text_model.config
            masks = model_masks(self.model, config, embeddings, mask, positions, cache, token_types)
        return self.text_model(
            **self.text_inputs(embeddings),
            attention_mask=masks,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state

    def why_never_packed(self) -> str | None:
        """Why no device packs groups of this model into one row; None where one may."""
        if not self.packs:
            return f"{type(self).__name__} does not say that it can be"
        reason = self.attention.why_not_causal(self.context_tokens)
        if reason is None and getattr(self.text_model.config, "attention_dropout", 0.0) > 0:
            reason = "attention has dropout"
        return reason

    def why_not_packed(self) -> str | None:
        """Why groups are not packed into one row; None where they are."""
        reason = self.why_never_packed()
        if reason is not None:
            return reason
        config = self.text_model.config
        if config._attn_implementation != GROUPED_SDPA:
            return f"attn_implementation is {config._attn_implementation!r}, not {GROUPED_SDPA!r}"
        device = self.model.device
        in_autocast = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if in_autocast else self.model.dtype
        return why_not_attended(device, dtype)
