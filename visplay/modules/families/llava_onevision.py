"""The LLaVA-OneVision family: an image whole and in tiles of a canvas (anyres), a token behind each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL.Image import Image
from torch import Tensor, nn

from visplay.modules.policy.vlm import VLM
from visplay.modules.policy.weights.loading import Part

SLACK = 1.1
"""An image's features are scaled down where a side is this many times longer than what ``anyres_max`` allows."""


@dataclass(frozen=True)
class Views:
    """Images as a square and as tiles of a canvas.

    Args:
        values: (images, views, channels, side, side) pixel values, zeros behind the last view of an image.
        sizes: (images, 2) height and width of each image as it was given.
    """

    values: Tensor
    sizes: Tensor


class LlavaOnevision(VLM):
    """LLaVA-OneVision as a policy; the arguments are those of ``VLM``.

    An image is fitted into one of the checkpoint's canvases; ``min_pixels`` and ``max_pixels`` choose among them by
    their area. vLLM 0.32 knows the checkpoint's canvases only, and an engine that cuts images otherwise ends the run:
    ``save`` a checkpoint with the choice, and start from that.

    Each image of a prompt is cut into tiles, as the processor does with a flat list of images, and vLLM too; the
    processor gives every image of a nested list of several one view only.

    Source: arXiv 2408.03326; transformers ``LlavaOnevisionForConditionalGeneration``.
    """

    packs: ClassVar[bool] = True

    def _load_model(self) -> Any:
        model = super()._load_model()
        model.config.image_grid_pinpoints = self._canvases
        return model

    @property
    def _canvases(self) -> list[list[int]]:
        """Heights and widths of what images are fitted into."""
        return self.processor.image_processor.image_grid_pinpoints

    def _banned_token_ids(self) -> list[int]:
        """Also the placeholder of a video."""
        return sorted({*super()._banned_token_ids(), self.processor.video_token_id})

    def image_tokens(self, image: Image) -> int:
        """Features of the whole, those of the canvas that show the image, and one per row of these."""
        counts = self.processor._get_num_multimodal_tokens(image_sizes=[(image.height, image.width)])
        return counts["num_image_tokens"][0]

    @property
    def most_image_tokens(self) -> int:
        """No image has more: a canvas filled, or as much of it as is not scaled down, with all its rows."""
        side = self.model.config.vision_config.image_size
        view = self.processor.num_image_tokens
        tiles = int(self.processor.vision_aspect_ratio.removeprefix("anyres_max_"))
        shown = (
            int(min(height * width / side**2, SLACK**2 * tiles) * view) + int(height // side * view**0.5)
            for height, width in self._canvases
        )
        return view + max(shown)

    def limit_pixels(self, min_pixels: int | None, max_pixels: int | None) -> None:
        """Keep the canvases with an area within the limits.

        Raises:
            ValueError: There is none.
        """
        low, high = min_pixels or 0, max_pixels or float("inf")
        kept = [[height, width] for height, width in self._canvases if low <= height * width <= high]
        if not kept:
            areas = sorted(height * width for height, width in self._canvases)
            raise ValueError(
                f"min_pixels={min_pixels}, max_pixels={max_pixels}: the checkpoint fits images into canvases of "
                f"{areas[0]} to {areas[-1]} pixels, and none is within"
            )
        self.processor.image_processor.image_grid_pinpoints = kept
        self.model.config.image_grid_pinpoints = kept

    @property
    def processor_settings(self) -> dict[str, Any]:
        """Nothing: vLLM takes no canvases but the checkpoint's."""
        return {}

    def released_name(self, name: str) -> str:
        """As transformers had it before 5; it still reads those names, and vLLM reads no others."""
        return name.replace("model.vision_tower.", "model.vision_tower.vision_model.", 1)

    def parts(self) -> dict[Part, Sequence[nn.Module]]:
        """The vision tower, the projector with the token behind each row, and the text model with its head."""
        model = self.model.model
        return {
            "vision_tower": (model.vision_tower,),
            "projector": (model.multi_modal_projector, nn.ParameterList([model.image_newline])),
            "language_model": (self.text_model, self.model.lm_head),
        }

    def process_images(self, images: Sequence[Image]) -> Views:
        """Scale images to a square, and fit them into canvases cut into tiles."""
        out = self.processor.image_processor(images=list(images), return_tensors="pt")
        return Views(out["pixel_values"], out["image_sizes"])

    def image_features(self, pixels: Views) -> Sequence[Tensor]:
        """Run the vision tower once over all views: one (tokens, H) tensor per image, canvases unpadded."""
        values = pixels.values.to(self.device)
        return self.model.model.get_image_features(values, pixels.sizes, return_dict=True).pooler_output
