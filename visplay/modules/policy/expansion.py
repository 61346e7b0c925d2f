"""Placeholders expanded to the tokens of their images, as a tokenizer would read the expanded text."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any


def expand(tokenizer: Any, token_ids: Sequence[int], images: Sequence[Sequence[int]], placeholder: int) -> list[int]:
    """Put the tokens of each image in the place of its placeholder.

    Where ordinary text of an image meets ordinary text, both are tokenized together: a line break before an image that
    begins with two of them may be one token with these.

    Args:
        tokenizer: The tokenizer.
        token_ids: Of a prompt, one placeholder per image.
        images: Tokens of each image.
        placeholder: Id of the placeholder.
    """
    ids: list[int] = []
    joints: list[int] = []
    rest = iter(images)
    for token in token_ids:
        if token == placeholder:
            image = list(next(rest))
            joints += [len(ids), len(ids) + len(image)]
            ids += image
        else:
            ids.append(token)
    controls = control_ids(tokenizer) | {placeholder}
    for joint in reversed(joints):  # from the last on, so that those before it stay where they are
        if 0 < joint < len(ids) and not controls & {ids[joint - 1], ids[joint]}:
            start, stop = _run(ids, joint, controls)
            text = tokenizer.decode(ids[start:stop], skip_special_tokens=False, clean_up_tokenization_spaces=False)
            ids[start:stop] = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    return ids


def _run(ids: Sequence[int], joint: int, controls: Collection[int]) -> tuple[int, int]:
    """Where the ordinary text around a joint begins and ends."""
    start = stop = joint
    while start > 0 and ids[start - 1] not in controls:
        start -= 1
    while stop < len(ids) and ids[stop] not in controls:
        stop += 1
    return start, stop


@lru_cache(maxsize=8)
def control_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of all tokens that are special, which end any text before them."""
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(added | set(tokenizer.all_special_ids))
