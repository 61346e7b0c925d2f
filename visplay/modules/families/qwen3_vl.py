"""The Qwen3-VL family: as Qwen2.5-VL, and images also enter the layers behind the first (DeepStack)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from visplay.modules.families.qwen2_5_vl import Patches, Qwen2_5_VL
from visplay.modules.policy.weights.loading import Part


class Qwen3_VL(Qwen2_5_VL):  # noqa: N801 (the family's own spelling)
    """Qwen3-VL as a policy; the arguments are those of ``VLM``.

    The vision tower gives every image token 1 + D vectors: one that is embedded, and one that is added to the output of
    each of the first D layers of the language model. They are concatenated, (…, (1 + D)·H), zeros for text.

    Source: arXiv 2511.21631, DeepStack arXiv 2406.04334; transformers ``Qwen3VLForConditionalGeneration``.
    """

    def parts(self) -> dict[Part, Sequence[nn.Module]]:
        """Blocks of the vision tower, all its mergers, and the text model with its head."""
        visual = self.model.model.visual
        return {
            "vision_tower": (visual.patch_embed, visual.pos_embed, visual.blocks),
            "projector": (visual.merger, visual.deepstack_merger_list),
            "language_model": (self.text_model, self.model.lm_head),
        }

    def image_features(self, pixels: Patches) -> Sequence[Tensor]:
        """Run the vision tower once over all images: one (tokens, (1 + D)·H) tensor each."""
        values, grids = pixels.values.to(self.device), pixels.grids.to(self.device)
        out = self.model.model.get_image_features(values, grids, return_dict=True)
        tokens = [len(image) for image in out.pooler_output]  # transformers 5.10 gives a level of all images as one
        later = [level.split(tokens) if isinstance(level, Tensor) else level for level in out.deepstack_features]
        return [torch.cat(image, -1) for image in zip(out.pooler_output, *later, strict=True)]

    def text_inputs(self, embeddings: Tensor) -> dict[str, Any]:
        """What is embedded, and where images are, what each of the first D layers is to add."""
        width = self.model.config.text_config.hidden_size
        embedded, later = embeddings[..., :width], embeddings[..., width:]
        if not later.shape[-1]:
            return {"inputs_embeds": embedded}
        where = later.detach().any(-1)
        return {
            "inputs_embeds": embedded,
            "visual_pos_masks": where,
            "deepstack_visual_embeds": [level[where] for level in later.split(width, -1)],
        }
