"""Prompts read into a cache: what the prompts about one image begin with is read once for all of them.

Prompts with the same images and the same tokens up to the last of them share a prefix: all tokens that they begin with,
the image among them. The prefixes are read first, padded on the left; every prompt continues from a copy of its prefix
with the rest of its tokens, padded on the left too, so that the last column ends every prompt.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor
from transformers import DynamicCache

from visplay.modules.policy.collation import collate, embed
from visplay.modules.policy.family import Family
from visplay.modules.policy.kv_cache import KVCache
from visplay.types import Prompt

WORTHWHILE_FRACTION = 0.8
"""Prefixes are a pass of their own, which must save more than it costs."""


@dataclass(frozen=True)
class SharedPrefixes:
    """What N prompts begin with.

    Args:
        tokens: Tokens of each of F prefixes, images expanded; may be 0.
        sources: For each prefix, the number of a prompt that begins with it.
        of_prompts: For each of N prompts, the number of its prefix.
        rest_tokens: Most tokens of a prompt behind its prefix.
    """

    tokens: Sequence[int]
    sources: Sequence[int]
    of_prompts: Sequence[int]
    rest_tokens: int

    @property
    def read_tokens(self) -> int:
        """Tokens that are read in all, padding included."""
        return len(self.tokens) * max(self.tokens) + len(self.of_prompts) * self.rest_tokens


def group_by_images(family: Family, prompts: Sequence[Prompt], *, same_texts: bool = False) -> list[list[int]]:
    """Group the numbers of prompts that have the same images and the same tokens up to the last of them.

    Images are the same by identity; a prompt without one is alone, or with ``same_texts`` together with its copies.
    """
    groups: dict[Hashable, list[int]] = {}
    for number, prompt in enumerate(prompts):
        opening: Hashable = prompt.token_ids if same_texts else number
        if prompt.images:
            images = [i for i, token in enumerate(prompt.token_ids) if token == family.image_token_id]
            opening = tuple(map(id, prompt.images)), prompt.token_ids[: images[-1] + 1 if images else 0]
        groups.setdefault(opening, []).append(number)
    return list(groups.values())


def find_shared_prefixes(family: Family, prompts: Sequence[Prompt]) -> SharedPrefixes | None:
    """Find what prompts begin with together; None where no two are about the same images, or the same text without one.

    None also where attention is not plainly causal, so that a prefix could end within an image or leave a gap within a
    window, and where the tokens of an image merge with text beside it.

    Each prompt keeps one token of its own at least. One that shares nothing is cut where its rest is as long as the
    longest rest of those that share.
    """
    groups = group_by_images(family, prompts, same_texts=True)
    if len(groups) == len(prompts) or family.attention.why_not_causal(family.context_tokens) is not None:
        return None
    lengths = [family.prompt_tokens(prompt) for prompt in prompts]
    unmerged = [len(p.token_ids) + sum(family.image_tokens(image) - 1 for image in p.images) for p in prompts]
    if lengths != unmerged:
        return None
    common = []
    for group in groups:
        ids = [prompts[number].token_ids for number in group]
        same = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*ids, strict=False)))
        shared = ids[0][: min(same, min(map(len, ids)) - 1)]
        images = prompts[group[0]].images[: shared.count(family.image_token_id)]
        common.append(len(shared) + sum(family.image_tokens(image) - 1 for image in images))
    pairs = list(zip(groups, common, strict=True))
    rest = max(lengths[number] - tokens for group, tokens in pairs if len(group) > 1 for number in group)
    return SharedPrefixes(
        tokens=[tokens if len(group) > 1 else max(0, lengths[group[0]] - rest) for group, tokens in pairs],
        sources=[group[0] for group in groups],
        of_prompts=[prefix for _, prefix in sorted((number, f) for f, group in enumerate(groups) for number in group)],
        rest_tokens=rest,
    )


def prefill(family: Family, prompts: Sequence[Prompt]) -> tuple[Tensor, KVCache]:
    """Read N prompts, prefixes first where that leaves at most ``WORTHWHILE_FRACTION`` of the tokens to read.

    Returns:
        The hidden state that predicts the first completion token, (N, H), and the cache to extend; gradients flow
        through both.
    """
    batch = collate(family, prompts)
    embeddings = embed(family, batch.input_ids, batch)
    layers, mask, columns = DynamicCache(), batch.mask, slice(None)
    prefixes = find_shared_prefixes(family, prompts)
    if prefixes is not None and prefixes.read_tokens <= WORTHWHILE_FRACTION * mask.numel():
        numbers = (prefixes.tokens, prefixes.sources, prefixes.of_prompts)
        tokens, sources, of_prompts = (torch.tensor(values, device=mask.device) for values in numbers)
        steps = torch.arange(-int(tokens.max()), 0, device=mask.device)
        inside = steps >= -tokens[:, None]
        padding = (~mask).sum(-1)[sources]
        read = sources[:, None], (steps + (padding + tokens)[:, None]).clamp(min=0)
        family.language_model(embeddings[read], inside, batch.positions[..., read[0], read[1]], layers)
        own = KVCache(layers, inside, batch.next_position[sources]).take(of_prompts)
        columns = slice(-prefixes.rest_tokens, None)
        behind = mask.cumsum(-1) > tokens[of_prompts, None]
        layers, mask = own.layers, torch.cat([own.mask, behind[:, columns]], 1)
    types = {"token_types": family.token_types(batch.input_ids)} if family.attention.images_both_ways else {}
    hidden = family.language_model(embeddings[:, columns], mask, batch.positions[..., columns], layers, **types)
    return hidden[:, -1], KVCache(layers, mask, batch.next_position)


def extend(family: Family, cache: KVCache, token_ids: Tensor) -> tuple[Tensor, KVCache]:
    """Read (B, T) more tokens; see ``VLM.extend``."""
    steps = torch.arange(token_ids.shape[1], device=token_ids.device)
    positions = family.text_positions(cache.next_position[:, None] + steps)
    mask = torch.cat([cache.mask, torch.ones_like(token_ids, dtype=torch.bool)], 1)
    embeddings = family.model.get_input_embeddings()(token_ids)
    hidden = family.language_model(embeddings, mask, positions, cache.layers)
    return hidden, KVCache(cache.layers, mask, cache.next_position + token_ids.shape[1])
