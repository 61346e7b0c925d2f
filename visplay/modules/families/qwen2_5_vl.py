"""The Qwen2.5-VL family (Qwen2.5-VL, MiMo-VL): three-part rotary positions, images of any size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL.Image import Image
from torch import Tensor, nn

from visplay.modules.policy.attention import GROUPED_SDPA
from visplay.modules.policy.hidden_states import mixed
from visplay.modules.policy.vlm import VLM
from visplay.modules.policy.weights.loading import Part

MOST_ASPECT_RATIO = 200
"""Of the sides of an image; the processor takes no narrower one."""


@dataclass(frozen=True)
class Patches:
    """Images cut into patches.

    Args:
        values: (patches, channels·frames·size²) pixel values of all images, one after another.
        grids: (images, 3) patches in time, height and width.
    """

    values: Tensor
    grids: Tensor


def most_scaled_tokens(least_pixels: int, most_pixels: int, token_pixels: int) -> int:
    """Most tokens of an image that is scaled to an area between two, its sides rounded to those of tokens.

    A large image is scaled down and its sides rounded down, but to one row at least: one of 200 to 1 keeps
    √(200 M) columns, where M tokens have the largest area. A small one is scaled up and its sides rounded up.

    Args:
        least_pixels: A smaller image is scaled up to this area.
        most_pixels: A larger image is scaled down to this area.
        token_pixels: Area of one token.

    Example:
        >>> most_scaled_tokens(262_144, 4_194_304, 784), most_scaled_tokens(4 * 784, 20 * 784, 784)
        (5349, 63)
    """
    least, most = least_pixels / token_pixels, most_pixels / token_pixels
    down = max(1, int(most), math.isqrt(int(MOST_ASPECT_RATIO * most)) if most < MOST_ASPECT_RATIO else 0)
    rows = math.ceil(math.sqrt(least / MOST_ASPECT_RATIO))
    up = [rows * (int(math.sqrt(least * MOST_ASPECT_RATIO)) + 1)]
    up += [more * (int(least / (more - 1)) + 1) for more in range(rows + 1, math.ceil(math.sqrt(least)) + 1)]
    return max(down, *up)


class PatchProduct(nn.Conv3d):
    """A convolution of patches that fill its kernel, as the matrix product it is."""

    def forward(self, patches: Tensor) -> Tensor:
        """Turn (patches, channels, frames, size, size) into (patches, width, 1, 1, 1)."""
        return nn.functional.linear(patches.flatten(1), self.weight.flatten(1), self.bias)[..., None, None, None]


class WindowedAttention(nn.Module):
    """Attention of the vision tower within images or windows: few calls of a kernel where transformers makes one each.

    To be mixed into transformers' attention, of whose forward pass only the kernel's calls are other ones.
    """

    config: Any

    def forward(self, hidden_states: Tensor, cu_seqlens: Tensor, **kwargs: Any) -> Tensor:
        """Attend within segments, which begin and end at ``cu_seqlens`` of the hidden states (L, width)."""
        if self.config._attn_implementation == GROUPED_SDPA:
            kwargs["windows"] = cu_seqlens.diff().tolist()
            cu_seqlens = cu_seqlens[[0, -1]]
        return super().forward(hidden_states, cu_seqlens=cu_seqlens, **kwargs)


class Qwen2_5_VL(VLM):  # noqa: N801 (the family's own spelling)
    """Qwen2.5-VL as a policy; the arguments are those of ``VLM``.

    Source: arXiv 2502.13923; transformers ``Qwen2_5_VLForConditionalGeneration``.
    """

    packs: ClassVar[bool] = True

    def _load_model(self) -> Any:
        model = super()._load_model()
        visual = model.model.visual
        visual.patch_embed.proj.__class__ = PatchProduct  # the same weight under the same name
        for block in visual.blocks:
            block.attn.__class__ = mixed(WindowedAttention, type(block.attn))
        return model

    def image_tokens(self, image: Image) -> int:
        """One token per merged block of patches."""
        processor = self.processor.image_processor
        return processor.get_number_of_image_patches(image.height, image.width, {}) // processor.merge_size**2

    @property
    def most_image_tokens(self) -> int:
        """Tokens of the largest area, or of a narrow image where that is small."""
        processor = self.processor.image_processor
        size, side = processor.size, processor.patch_size * processor.merge_size
        return most_scaled_tokens(size["shortest_edge"], size["longest_edge"], side**2)

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
