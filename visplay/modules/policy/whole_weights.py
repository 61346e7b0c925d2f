"""A model's weights as an engine takes them: whole, under the checkpoint's names, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


@torch.no_grad()
def whole_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every weight under the checkpoint's name; nothing is kept, and the model stays as it is.

    A sharded weight (FSDP2) is gathered, in which every rank has to take part. A layer with LoRA adapters of peft gives
    the sum of its weight and of the active adapters' products; the adapters are left out. A tied weight comes once.
    """
    modules = dict(model.named_modules())
    for name, weight in model.named_parameters():
        if ".lora_" in name:
            continue
        adapted, _, rest = name.partition(".base_layer.")
        whole = _gather(weight.detach())
        if rest == "weight":
            whole = _with_adapters(modules[adapted], whole)
        yield name.removeprefix("base_model.model.").replace(".base_layer.", "."), whole


def _gather(weight: Tensor) -> Tensor:
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def _with_adapters(layer: Any, weight: Tensor) -> Tensor:
    """The weight that a LoRA layer stands for, in memory of its own."""
    off = layer.merged or layer.disable_adapters
    active = [] if off else [name for name in layer.active_adapters if name in layer.scaling]
    return sum((_gather(layer.get_delta_weight(name)).to(weight.device) for name in active), start=weight)
