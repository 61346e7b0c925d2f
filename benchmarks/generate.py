"""The yardstick, transformers' own ``generate``, and what makes all samples alike in length."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from visplay.modules import Qwen2_5_VL
from visplay.types import Prompt


@torch.no_grad()
def plain_generate(policy: Qwen2_5_VL, prompts: Sequence[Prompt], n: int, tokens: int, at_least: int = 0) -> Tensor:
    """Sample with ``generate(num_return_sequences=n)``, every prompt with an image of its own.

    Returns:
        (N * n, T) ids of the completions, padded on the right.
    """
    batch = policy.collate(prompts)
    pixels = policy.process_images([image for prompt in prompts for image in prompt.images])
    sampled = policy.model.generate(
        input_ids=batch.input_ids,
        attention_mask=batch.mask.long(),
        pixel_values=pixels.values.to(policy.device),
        image_grid_thw=pixels.grids.to(policy.device),
        mm_token_type_ids=(batch.input_ids == policy.image_token_id).int(),
        do_sample=True,
        top_k=0,
        num_return_sequences=n,
        min_new_tokens=at_least,
        max_new_tokens=tokens,
        suppress_tokens=policy.banned_token_ids.tolist(),
    )
    return sampled[:, batch.input_ids.shape[1] :]


def ban_stops(policy: Qwen2_5_VL) -> None:
    """Let no completion of a policy end by itself, so that all are as long as their limit."""
    stops = torch.tensor(policy.stop_token_ids, device=policy.device)
    policy.banned_token_ids = torch.cat([policy.banned_token_ids, stops])
