"""Prompts read into a context: what the prompts about one image begin with is read once for all of them.

Prompts with the same images and the same tokens up to the last of them share a front: all tokens that they begin
with, the image among them. The fronts are read first, padded on the left; every prompt continues from a copy of its
front with the rest of its tokens, padded on the left too, so that the last column ends every prompt.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import DynamicCache

from visplay.modules.policy.collation import PromptBatch
from visplay.modules.policy.kv_cache import Context, take_rows
from visplay.types import Prompt

if TYPE_CHECKING:
    from visplay.modules.policy.vlm import VLM

WORTHWHILE_SHARE = 0.8
"""Fronts are a pass of their own, which must save more than it costs."""


@dataclass(frozen=True)
class Fronts:
    """What N prompts begin with.

    Args:
        tokens: Tokens of each of F fronts, images expanded; may be 0.
        sources: For each front, the number of a prompt that begins with it.
        of_prompts: For each of N prompts, the number of its front.
        rest_tokens: Most tokens of a prompt behind its front.
    """

    tokens: Sequence[int]
    sources: Sequence[int]
    of_prompts: Sequence[int]
    rest_tokens: int

    @property
    def read_tokens(self) -> int:
        """Tokens that are read in all, padding included."""
        return len(self.tokens) * max(self.tokens) + len(self.of_prompts) * self.rest_tokens


def group_by_images(vlm: VLM, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Group the numbers of prompts that have the same images and the same tokens up to the last of them.

    Images are the same by identity; a prompt without one is alone.
    """
    groups: dict[Hashable, list[int]] = {}
    for number, prompt in enumerate(prompts):
        groups.setdefault(_opening(vlm, prompt) or number, []).append(number)
    return list(groups.values())


def prefill(vlm: VLM, prompts: Sequence[Prompt]) -> tuple[Tensor, Context]:
    """Read N prompts, fronts first where that leaves at most ``WORTHWHILE_SHARE`` of the tokens to read.

    Args:
        vlm: Who reads.
        prompts: N prompts.

    Returns:
        The hidden state that predicts the first completion token, (N, H), and the context to extend; gradients flow
        through both.
    """
    batch = vlm.collate(prompts)
    embeddings = vlm.embed(batch.input_ids, batch)
    cache, mask, columns = DynamicCache(), batch.mask, slice(None)
    fronts = find_fronts(vlm, prompts)
    if fronts is not None and fronts.read_tokens <= WORTHWHILE_SHARE * mask.numel():
        numbers = (fronts.tokens, fronts.sources, fronts.of_prompts)
        tokens, sources, of_prompts = (torch.tensor(values, device=mask.device) for values in numbers)
        cache, front_mask = _read_fronts(vlm, batch, embeddings, tokens, sources)
        behind = mask.cumsum(-1) > tokens[of_prompts, None]
        columns = slice(-fronts.rest_tokens, None)
        cache, mask = take_rows(cache, of_prompts), torch.cat([front_mask[of_prompts], behind[:, columns]], 1)
    hidden = vlm.language_model(embeddings[:, columns], mask, batch.positions[..., columns], cache)
    return hidden[:, -1], Context(cache, mask, batch.next_position)


def _read_fronts(
    vlm: VLM, batch: PromptBatch, embeddings: Tensor, tokens: Tensor, sources: Tensor
) -> tuple[DynamicCache, Tensor]:
    """Read F fronts, given their tokens and their sources (F,); returns the cache and their mask (F, W)."""
    steps = torch.arange(-int(tokens.max()), 0, device=tokens.device)
    inside = steps >= -tokens[:, None]
    padding = (~batch.mask).sum(-1)[sources]
    columns = (steps + (padding + tokens)[:, None]).clamp(min=0)
    cache, rows = DynamicCache(), sources[:, None]
    vlm.language_model(embeddings[rows, columns], inside, batch.positions[..., rows, columns], cache)
    return cache, inside


def find_fronts(vlm: VLM, prompts: Sequence[Prompt]) -> Fronts | None:
    """Find what prompts begin with together; None where no two are about the same images.

    A prompt that shares nothing is cut where its rest is as long as the longest rest of those that share.
    """
    groups = group_by_images(vlm, prompts)
    if len(groups) == len(prompts):
        return None
    lengths = [vlm.prompt_tokens(prompt) for prompt in prompts]
    common = [_common_tokens(vlm, [prompts[number] for number in group]) for group in groups]
    pairs = list(zip(groups, common, strict=True))
    rest = max(lengths[number] - tokens for group, tokens in pairs if len(group) > 1 for number in group)
    return Fronts(
        tokens=[tokens if len(group) > 1 else max(0, lengths[group[0]] - rest) for group, tokens in pairs],
        sources=[group[0] for group in groups],
        of_prompts=[front for _, front in sorted((number, f) for f, group in enumerate(groups) for number in group)],
        rest_tokens=rest,
    )


def _opening(vlm: VLM, prompt: Prompt) -> Hashable:
    """The images of a prompt and its tokens up to the last of them; nothing without images."""
    if not prompt.images:
        return ()
    image_token_id = vlm.image_token_id
    after = max((i + 1 for i, token in enumerate(prompt.token_ids) if token == image_token_id), default=0)
    return tuple(map(id, prompt.images)), prompt.token_ids[:after]


def _common_tokens(vlm: VLM, prompts: Sequence[Prompt]) -> int:
    """How many tokens all prompts of a group begin with, images expanded; each keeps one of its own at least."""
    rows = [prompt.token_ids for prompt in prompts]
    columns = zip(*rows, strict=False)
    same = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    common = prompts[0].token_ids[: min(same, min(map(len, rows)) - 1)]
    images = common.count(vlm.image_token_id)
    return len(common) + sum(vlm.image_tokens(image) - 1 for image in prompts[0].images[:images])
