"""The Qwen2.5-VL family (Qwen2.5-VL, MiMo-VL): three-part rotary positions, images of any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL.Image import Image
from torch import Tensor, nn

from visplay.modules.policy.loading import Part
from visplay.modules.policy.vlm import VLM


@dataclass(frozen=True)
class Patches:
    """Images cut into patches.

    Args:
        values: (patches, channels·frames·size²) pixel values of all images, one after another.
        grids: (images, 3) patches in time, height and width.
    """

    values: Tensor
    grids: Tensor


class PatchProduct(nn.Conv3d):
    """A convolution of patches that fill its kernel, as the matrix product it is."""

    def forward(self, patches: Tensor) -> Tensor:
        """Turn (patches, channels, frames, size, size) into (patches, width, 1, 1, 1)."""
        return nn.functional.linear(patches.flatten(1), self.weight.flatten(1), self.bias)[..., None, None, None]


class Qwen2_5_VL(VLM):  # noqa: N801 (the family's own spelling)
    """Qwen2.5-VL as a policy; the arguments are those of ``VLM``.

    Source: arXiv 2502.13923; transformers ``Qwen2_5_VLForConditionalGeneration``.
    """

    packs: ClassVar[bool] = True

    def _load_model(self) -> Any:
        model = super()._load_model()
        model.model.visual.patch_embed.proj.__class__ = PatchProduct  # the same weight under the same name
        return model

    def image_tokens(self, image: Image) -> int:
        """One token per merged block of patches."""
        processor = self.processor.image_processor
        return processor.get_number_of_image_patches(image.height, image.width, {}) // processor.merge_size**2

    @property
    def most_image_tokens(self) -> int:
        """The largest area over the area of one token."""
        processor = self.processor.image_processor
        return processor.size["longest_edge"] // (processor.patch_size * processor.merge_size) ** 2

    def limit_pixels(self, min_pixels: int | None, max_pixels: int | None) -> None:
        """Set the processor's areas; images are scaled to a multiple of a token's side in between.

        Raises:
            ValueError: A limit contradicts the checkpoint's other one.
        """
        size = dict(self.processor.image_processor.size)
        low = size["shortest_edge"] if min_pixels is None else min_pixels
        high = size["longest_edge"] if max_pixels is None else max_pixels
        if low > high:
            raise ValueError(f"min_pixels, max_pixels: with the checkpoint's they are {low} and {high}; give both")
        self.processor.image_processor.size = size | {"shortest_edge": low, "longest_edge": high}

    @property
    def processor_settings(self) -> dict[str, Any]:
        """The areas that images are scaled to."""
        size = self.processor.image_processor.size
        return {"size": {"shortest_edge": size["shortest_edge"], "longest_edge": size["longest_edge"]}}

    def parts(self) -> dict[Part, Sequence[nn.Module]]:
        """Blocks of the vision tower, its merger, and the text model with its head."""
        visual = self.model.model.visual
        return {
            "vision_tower": (visual.patch_embed, visual.blocks),
            "projector": (visual.merger,),
            "language_model": (self.model.model.language_model, self.model.lm_head),
        }

    def process_images(self, images: Sequence[Image]) -> Patches:
        """Resize images and cut them into patches."""
        out = self.processor.image_processor(images=list(images), return_tensors="pt")
        return Patches(out["pixel_values"], out["image_grid_thw"])

    def image_features(self, pixels: Patches) -> Sequence[Tensor]:
        """Run the vision tower once over all images: one (tokens, H) tensor each."""
        values, grids = pixels.values.to(self.device), pixels.grids.to(self.device)
        return self.model.model.get_image_features(values, grids, return_dict=True).pooler_output

    def prompt_positions(
        self, input_ids: Tensor, mask: Tensor, pixels: Patches | None, image_index: Sequence[int]
    ) -> Tensor:
        """Temporal, height and width positions, (3, N, P)."""
        positions, _ = self.model.model.get_rope_index(
            input_ids,
            mm_token_type_ids=(input_ids == self.image_token_id).int(),
            image_grid_thw=None if pixels is None else pixels.grids[list(image_index)],
            attention_mask=mask.long(),
        )
        return positions

    def text_positions(self, positions: Tensor) -> Tensor:
        """The same position in all three parts, (3, B, T)."""
        return positions.unsqueeze(0).expand(3, -1, -1)
