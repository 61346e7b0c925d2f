"""Other ways to score a group's completions than the packed row: what a speed-up is measured against."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from visplay.modules import Qwen2_5_VL
from visplay.types import Prompt


class SharedCache(Qwen2_5_VL):
    """The fallback: prompts are read once, and each completion continues from a copy of its prompt's cache."""

    def why_not_packed(self) -> str:
        """By choice."""
        return "it is measured without"


class PaddedRows(Qwen2_5_VL):
    """A row of its own for every completion: prompt, image and all, as trainers do that share nothing."""

    def _predictors(self, prompts: Sequence[Prompt], token_ids: Tensor, mask: Tensor) -> Tensor:
        group = token_ids.shape[1]
        batch = self.collate(prompts)
        pixels = self.process_images([image for prompt in prompts for image in prompt.images * group])
        rows = torch.arange(len(prompts), device=mask.device).repeat_interleave(group)
        input_ids = torch.cat([batch.input_ids[rows], token_ids.flatten(0, 1)], 1)
        hidden = self.model.model(
            input_ids=input_ids,
            attention_mask=torch.cat([batch.mask[rows], mask.flatten(0, 1)], 1).long(),
            pixel_values=pixels.values.to(self.device),
            image_grid_thw=pixels.grids.to(self.device),
            mm_token_type_ids=(input_ids == self.image_token_id).int(),
            use_cache=False,
        ).last_hidden_state
        tokens = token_ids.shape[2]
        return hidden[:, -tokens - 1 : -1].unflatten(0, (len(prompts), group))[mask]


def in_way(policy: Qwen2_5_VL, way: type[Qwen2_5_VL]) -> Qwen2_5_VL:
    """The policy, its weights included, scoring in another way."""
    other = copy.copy(policy)
    other.__class__ = way
    return other
