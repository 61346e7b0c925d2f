"""A family of one's own: LLaVA 1.5, whose images are squares of one size (docs/adding_a_vlm.md).

PYTHONPATH=. visplay fit --config configs/tiny.yaml \
        --model.vlm=examples.add_a_vlm.Llava --model.vlm.path=llava-hf/llava-1.5-7b-hf
"""

from collections.abc import Sequence
from typing import Any

from PIL.Image import Image
from torch import Tensor, nn

from visplay.modules import VLM
from visplay.modules.policy.weights.loading import Part


class Llava(VLM):
    """LLaVA 1.5 (arXiv 2310.03744); the arguments are those of ``VLM``."""

    packs = True

    @property
    def most_image_tokens(self) -> int:
        """Every image has as many: one per patch of the square."""
        return (self.processor.image_processor.crop_size["height"] // self.processor.patch_size) ** 2

    def image_tokens(self, image: Image) -> int:
        """Whatever its size."""
        return self.most_image_tokens

    def limit_pixels(self, min_pixels: int | None, max_pixels: int | None) -> None:
        """There is nothing to choose."""
        if (min_pixels, max_pixels) != (None, None):
            raise ValueError(f"min_pixels={min_pixels}, max_pixels={max_pixels}: LLaVA 1.5 has one size; give null")

    @property
    def processor_settings(self) -> dict[str, Any]:
        """Nothing: the checkpoint says it all."""
        return {}

    def released_name(self, name: str) -> str:
        """As vLLM, and the released checkpoints, have it."""
        return name.replace("model.vision_tower.", "model.vision_tower.vision_model.", 1)

    def parts(self) -> dict[Part, Sequence[nn.Module]]:
        """Every weight belongs to one of them."""
        model = self.model.model
        return {
            "vision_tower": [model.vision_tower],
            "projector": [model.multi_modal_projector],
            "language_model": [model.language_model, self.model.lm_head],
        }

    def process_images(self, images: Sequence[Image]) -> Tensor:
        """(images, channels, side, side) pixel values."""
        return self.processor.image_processor(images=list(images), return_tensors="pt")["pixel_values"]

    def image_features(self, pixels: Tensor) -> Sequence[Tensor]:
        """One (tokens, H) tensor per image."""
        return self.model.model.get_image_features(pixels.to(self.device), return_dict=True).pooler_output
