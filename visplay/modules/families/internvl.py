"""The InternVL family: an image is cut into square tiles, and a scaled-down whole follows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL.Image import Image
from torch import Tensor, nn

from visplay.modules.policy.vlm import VLM
from visplay.modules.policy.weights.loading import Part


@dataclass(frozen=True)
class Crops:
    """Images cut into tiles of one size.

    Args:
        values: (tiles, channels, side, side) pixel values of all images, one after another.
        counts: Tiles of each image.
    """

    values: Tensor
    counts: Sequence[int]


class InternVL(VLM):
    """InternVL as a policy, checkpoints in transformers' form ("-hf"); the arguments are those of ``VLM``.

    ``max_pixels`` is the area of all tiles of an image, the scaled-down whole left out; ``min_pixels`` has no meaning.

    Source: arXiv 2504.10479; transformers ``InternVLForConditionalGeneration``.
    """

    packs: ClassVar[bool] = True

    @property
    def most_image_tokens(self) -> int:
        """Most tiles and the whole, between two tokens."""
        most = self.processor.image_processor.max_patches
        return self.processor.image_seq_length * (most + (most > 1)) + 2

    def image_tokens(self, image: Image) -> int:
        """Tokens of all tiles, between two more."""
        tiles = self.processor.image_processor.get_number_of_image_patches(
            image.height, image.width, {"crop_to_patches": True}
        )
        return self.processor.image_seq_length * tiles + 2

    def image_token_ids(self, image: Image) -> Sequence[int]:
        """Features between the tokens that open and close an image."""
        features = [self.feature_token_id] * (self.image_tokens(image) - 2)
        return [self.processor.start_image_token_id, *features, self.processor.end_image_token_id]

    def limit_pixels(self, min_pixels: int | None, max_pixels: int | None) -> None:
        """Set the most tiles of an image.

        Raises:
            ValueError: ``min_pixels`` is given, or ``max_pixels`` is less than a tile's area.
        """
        processor = self.processor.image_processor
        area = processor.size["height"] * processor.size["width"]
        if min_pixels is not None:
            raise ValueError(f"min_pixels: {min_pixels}, but InternVL scales all images to tiles; give null")
        if max_pixels is not None and max_pixels < area:
            raise ValueError(f"max_pixels: {max_pixels} must be at least {area}, the area of a tile, or null")
        if max_pixels is not None:
            processor.max_patches = min(processor.max_patches, max_pixels // area)

    @property
    def processor_settings(self) -> dict[str, Any]:
        """The most tiles of an image."""
        return {"max_patches": self.processor.image_processor.max_patches}

    def parts(self) -> dict[Part, Sequence[nn.Module]]:
        """The vision tower, the projector, and the text model with its head."""
        model = self.model.model
        return {
            "vision_tower": (model.vision_tower,),
            "projector": (model.multi_modal_projector,),
            "language_model": (self.text_model, self.model.lm_head),
        }

    def process_images(self, images: Sequence[Image]) -> Crops:
        """Cut images into tiles."""
        out = self.processor.image_processor(images=list(images), crop_to_patches=True, return_tensors="pt")
        return Crops(out["pixel_values"], [int(tiles) for tiles in out["num_patches"]])

    def image_features(self, pixels: Crops) -> Sequence[Tensor]:
        """Run the vision tower once over all tiles: one (tokens, H) tensor per image."""
        features = self.model.model.get_image_features(pixels.values.to(self.device), return_dict=True).pooler_output
        return [image.flatten(0, 1) for image in features.split(list(pixels.counts))]
