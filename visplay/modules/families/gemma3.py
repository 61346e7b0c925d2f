"""The Gemma 3 family: images of one size whose tokens see one another, and windows in most layers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar

from PIL.Image import Image
from torch import Tensor, nn

from visplay.modules.policy.vlm import VLM
from visplay.modules.policy.weights.loading import Part


class Gemma3(VLM):
    """Gemma 3 as a policy; the arguments are those of ``VLM``.

    An image is scaled to a square of one size. The model makes its own masks; groups are not packed, and no prefix is
    shared. Pan-and-scan, an option of the processor that no released checkpoint sets, is rejected.

    Source: arXiv 2503.19786; transformers ``Gemma3ForConditionalGeneration``.
    """

    packs: ClassVar[bool] = True

    @property
    def image_token_id(self) -> int:
        """The token that opens an image, which a prompt has; some versions of the processor name another."""
        return self.tokenizer.boi_token_id

    @property
    def most_image_tokens(self) -> int:
        """Features, the tokens around them, and line breaks."""
        return len(_encode(self.tokenizer, self.processor.full_image_sequence))

    def image_token_ids(self, image: Image) -> Sequence[int]:
        """Features between two tokens, and two line breaks on each side, which merge with those of the prompt."""
        return _encode(self.tokenizer, self.processor.full_image_sequence)

    def image_tokens(self, image: Image) -> int:
        """Whatever its size."""
        return self.most_image_tokens

    def limit_pixels(self, min_pixels: int | None, max_pixels: int | None) -> None:
        """There is nothing to choose.

        Raises:
            ValueError: A limit is given, or the checkpoint's processor cuts images into crops.
        """
        if (min_pixels, max_pixels) != (None, None):
            raise ValueError(f"min_pixels={min_pixels}, max_pixels={max_pixels}: Gemma 3 has one size; give null")
        if getattr(self.processor.image_processor, "do_pan_and_scan", None):
            raise ValueError(f"path: the processor of {self.path!r} says do_pan_and_scan: true, which is not supported")

    @property
    def processor_settings(self) -> dict[str, Any]:
        """Nothing: the checkpoint says it all."""
        return {}

    def released_name(self, name: str) -> str:
        """As vLLM, and the released checkpoints, have it."""
        return name.replace("model.vision_tower.", "model.vision_tower.vision_model.", 1)

    def parts(self) -> dict[Part, Sequence[nn.Module]]:
        """The vision tower, the projector, and the text model with its head."""
        model = self.model.model
        return {
            "vision_tower": (model.vision_tower,),
            "projector": (model.multi_modal_projector,),
            "language_model": (self.text_model, self.model.lm_head),
        }

    def process_images(self, images: Sequence[Image]) -> Tensor:
        """(images, channels, side, side) pixel values."""
        return self.processor.image_processor(images=list(images), return_tensors="pt")["pixel_values"]

    def image_features(self, pixels: Tensor) -> Sequence[Tensor]:
        """One (tokens, H) tensor per image."""
        return self.model.model.get_image_features(pixels.to(self.device), return_dict=True).pooler_output


@lru_cache(maxsize=8)
def _encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False))
