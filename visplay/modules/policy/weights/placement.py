"""Where the weights of a policy are: on the device that computes, or on the CPU while they are not needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from visplay.modules.policy.weights.adapters import Adaptable

CPU = torch.device("cpu")


def move(policy: Adaptable, device: torch.device) -> None:
    """Move a policy; an adapter stays on the model that it shares with others, and shards where they are."""
    if policy.adapters is None and not policy.sharded:
        policy.to(device)


@contextmanager
def placed(policy: Adaptable, device: torch.device) -> Iterator[None]:
    """Within it the policy can compute on a device; weights that are elsewhere are copied there, and the copies let go.

    Nothing is copied back: what is changed meanwhile is lost.
    """
    if policy.adapters is not None or policy.device == device:
        yield
        return
    tables: list[Any] = [table for module in policy.modules() for table in (module._parameters, module._buffers)]
    before = [dict(table) for table in tables]
    unique = {id(each): each for own in before for each in own.values() if each is not None}  # a tied weight comes once
    copies = {key: each.detach().to(device) for key, each in unique.items()}
    for table, own in zip(tables, before, strict=True):
        table.update({name: copies.get(id(each)) for name, each in own.items()})
    try:
        yield
    finally:
        for table, own in zip(tables, before, strict=True):
            table.update(own)
