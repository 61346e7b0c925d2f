"""The Idefics3 family (SmolVLM, SmolVLM2): an image is cut into tiles, each announced by its row and column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from PIL.Image import Image
from torch import Tensor, nn

from visplay.modules.policy.vlm import VLM
from visplay.modules.policy.weights.loading import Part

LONGEST_SIDE = 4096
"""Of an image, whatever its processor's size; transformers' own limit."""


@dataclass(frozen=True)
class Tiles:
    """Images cut into square tiles; the last tile of an image is all of it, scaled down.

    Args:
        values: (tiles, channels, side, side) pixel values of all images, one after another.
        counts: Tiles of each image.
    """

    values: Tensor
    counts: Sequence[int]


class SmolVLM(VLM):
    """Idefics3, SmolVLM or SmolVLM2 as a policy; the arguments are those of ``VLM``.

    Every image is scaled until its longest side is the processor's, a multiple of a tile's side; ``max_pixels`` is
    the area of the square of that side, and ``min_pixels`` has no meaning.

    Source: arXiv 2408.12637 and 2504.05299; transformers ``Idefics3ForConditionalGeneration`` and
    ``SmolVLMForConditionalGeneration``, whose processor needs num2words (``visplay[smolvlm2]``).
    """

    packs: ClassVar[bool] = True

    @property
    def text_model(self) -> Any:
        """The language model without its head."""
        return self.model.model.text_model

    @property
    def _tile_side(self) -> int:
        return self.processor.image_processor.max_image_size["longest_edge"]

    @property
    def _longest_side(self) -> int:
        return self.processor.image_processor.size["longest_edge"]

    def _banned_token_ids(self) -> list[int]:
        """Also all that announces a tile."""
        control = {index for index, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return sorted({*super()._banned_token_ids(), *control} - set(self.stop_token_ids))

    def image_token_ids(self, image: Image) -> Sequence[int]:
        """Row by row, each tile behind its row and column, and the whole image at last."""
        _, rows, columns = self.processor.image_processor.get_number_of_image_patches(image.height, image.width, {})
        return self._grid_token_ids(rows, columns)

    def _grid_token_ids(self, rows: int, columns: int) -> Sequence[int]:
        """Tokens of an image cut into a grid; 0 and 0 for one that is not cut."""
        if hasattr(self.processor, "expand_text_with_image_tokens"):  # SmolVLM's in transformers 5.10
            (text,) = self.processor.expand_text_with_image_tokens([self.processor.image_token], [[rows]], [[columns]])
        else:
            text = self.processor.replace_image_token({"rows": [[rows]], "cols": [[columns]]}, 0)
        return _encode(self.tokenizer, text)

    def image_tokens(self, image: Image) -> int:
        """Tokens of all tiles and of what announces them."""
        return len(self.image_token_ids(image))

    @property
    def most_image_tokens(self) -> int:
        """Tokens of a square image, the one that is cut into most tiles."""
        tiles = self._longest_side // self._tile_side if self.processor.image_processor.do_image_splitting else 1
        return len(self._grid_token_ids(*([tiles, tiles] if tiles > 1 else [0, 0])))

    def limit_pixels(self, min_pixels: int | None, max_pixels: int | None) -> None:
        """Set the longest side that images are scaled to, a multiple of a tile's.

        Raises:
            ValueError: ``min_pixels`` is given, ``max_pixels`` is less than a tile's area, or the checkpoint's own
                longest side is no multiple of a tile's (transformers miscounts tiles then).
        """
        if min_pixels is not None:
            raise ValueError(f"min_pixels: {min_pixels}, but {type(self).__name__} scales all images up; give null")
        processor, tile = self.processor.image_processor, self._tile_side
        limit = LONGEST_SIDE if max_pixels is None else min(math.isqrt(max_pixels), LONGEST_SIDE)
        if limit < tile:
            raise ValueError(f"max_pixels: {max_pixels} must be at least {tile**2}, the area of a tile, or null")
        if max_pixels is not None:
            processor.size = {"longest_edge": limit // tile * tile}
        if self._longest_side > LONGEST_SIDE or self._longest_side % tile:
            raise ValueError(
                f"path: {self.path!r} scales images to a longest side of {self._longest_side}, which must be a "
                f"multiple of a tile's {tile} and at most {LONGEST_SIDE}; give max_pixels"
            )

    @property
    def processor_settings(self) -> dict[str, Any]:
        """The longest side that images are scaled to."""
        return {"size": {"longest_edge": self._longest_side}}

    def parts(self) -> dict[Part, Sequence[nn.Module]]:
        """The vision tower, the connector, and the text model with its head."""
        return {
            "vision_tower": (self.model.model.vision_model,),
            "projector": (self.model.model.connector,),
            "language_model": (self.text_model, self.model.lm_head),
        }

    def process_images(self, images: Sequence[Image]) -> Tiles:
        """Scale images and cut them into tiles."""
        out = self.processor.image_processor(images=[list(images)], return_row_col_info=True, return_tensors="pt")
        grids = zip(out["rows"][0], out["cols"][0], strict=True)
        return Tiles(out["pixel_values"][0], [int(rows) * int(columns) + 1 for rows, columns in grids])

    def image_features(self, pixels: Tiles) -> Sequence[Tensor]:
        """Run the vision tower once over all tiles: one (image tokens, H) tensor per image."""
        values = pixels.values[None].to(self.device)
        features = self.model.model.get_image_features(values, return_dict=True).pooler_output
        return [image.flatten(0, 1) for image in features.split(list(pixels.counts))]


@lru_cache(maxsize=256)
def _encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False))
