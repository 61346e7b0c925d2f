"""Where the weights of a policy lie: on the device that computes, or on the host while they are not needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from visplay.modules.policy.vlm import VLM

HOST = torch.device("cpu")


def move(policy: VLM, device: torch.device) -> None:
    """Move a policy; an adapter stays on the model that it shares with others."""
    if policy.adapters is None:
        policy.to(device)


@contextmanager
def placed(policy: VLM, device: torch.device) -> Iterator[None]:
    """Within it the policy can compute on a device; weights that lie elsewhere are copied there, and the copies let go.

    Nothing is copied back: what is changed meanwhile is lost.
    """
    if policy.adapters is not None or policy.device == device:
        yield
        return
    places: list[Any] = [place for module in policy.modules() for place in (module._parameters, module._buffers)]
    held = [dict(place) for place in places]
    unique = {id(each): each for own in held for each in own.values() if each is not None}  # a tied weight comes once
    copies = {key: each.detach().to(device) for key, each in unique.items()}
    for place, own in zip(places, held, strict=True):
        place.update({name: copies.get(id(each)) for name, each in own.items()})
    try:
        yield
    finally:
        for place, own in zip(places, held, strict=True):
            place.update(own)
