"""A model whose weights are sharded over ranks (FSDP2): each keeps a part, and gathers a layer while it computes.

A sharded weight is a ``DTensor``, in whose collectives all ranks take part at the same point. A decoder layer or vision
block is gathered for its forward and its backward pass; what is in none, embeddings and head above all, stays gathered
from a forward pass to the end of its backward pass. Sampling would gather every layer for every token, and ranks
sample different numbers of tokens: for it, ``gather`` keeps all layers gathered until ``release``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

T = TypeVar("T")


def shard(model: nn.Module, mesh: DeviceMesh, *, apart: Collection[nn.Parameter] = ()) -> None:
    """Shard a model in place; each layer is moved to the mesh's device as it is sharded.

    Gradients are summed over ranks, not averaged, in each backward pass.

    Args:
        model: With weights; transformers' layers and blocks are ``GradientCheckpointingLayer``.
        mesh: Of the ranks, one axis.
        apart: Weights that stay whole on each rank, whose gradients nobody reduces.
    """
    apart = set(apart)
    for layer in [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=apart)
    fully_shard(model, mesh=mesh, reshard_after_forward=False, ignored_params=apart)
    for module in _sharded_modules(model):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # any backend can; gloo has no other that takes a factor
    model.compute = MethodType(_call, model)  # type: ignore[assignment]
    register_fsdp_forward_method(model, "compute")


def _call(model: nn.Module, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    return function(*args, **kwargs)


def is_sharded(model: nn.Module | None) -> bool:
    """Whether a model's weights are sharded."""
    return isinstance(model, FSDPModule)


def compute(model: Any, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call a function that computes with the model's weights, and not only through its ``forward``."""
    return model.compute(function, *args, **kwargs) if is_sharded(model) else function(*args, **kwargs)


def gather(model: nn.Module) -> None:
    """Gather all layers, and keep them; what computes with them until ``release`` needs no other rank."""
    compute(model, lambda: None)  # the first that ever computes is the root of all others
    for module in _sharded_modules(model):
        module.unshard()
        module.set_reshard_after_forward(False, recurse=False)


def release(model: nn.Module) -> None:
    """Let go of what is gathered; a model that is not sharded stays as it is."""
    for module in _sharded_modules(model):
        module.reshard()
        module.set_reshard_after_forward(module is not model, recurse=False)


def _sharded_modules(model: nn.Module) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def shards(model: nn.Module) -> dict[str, DTensor]:
    """The sharded weights of a model by name, each rank's part; a tied one comes once."""
    release(model)
    return {name: weight for name, weight in model.named_parameters() if isinstance(weight, DTensor)}


def first_names(model: nn.Module) -> dict[str, str]:
    """Names of all weights, each with the name under which a tied one comes once."""
    first = {id(weight): name for name, weight in model.named_parameters()}
    return {name: first[id(weight)] for name, weight in model.named_parameters(remove_duplicate=False)}


@contextmanager
def exchanged(model: nn.Module, others: Mapping[str, Tensor]) -> Iterator[None]:
    """Within it the model has other shards in place of its own, which are in theirs."""
    own = shards(model)
    _exchange(own, others)
    try:
        yield
    finally:
        release(model)
        _exchange(own, others)


@torch.no_grad()
def _exchange(own: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> None:
    for name, other in others.items():
        before = own[name].detach().clone()
        own[name].copy_(other)
        other.copy_(before)


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the parts of all ranks, who take part; one that is not sharded as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, sharded: Tensor) -> Tensor:
    """Of a tensor that every rank has whole, this rank's part, sharded as another one of its shape is."""
    if not isinstance(sharded, DTensor) or isinstance(tensor, DTensor) or tensor.shape != sharded.shape:
        return tensor
    part = distribute_tensor(tensor.detach(), sharded.device_mesh, sharded.placements, src_data_rank=None)
    return part.clone()  # it would keep the whole tensor


def gather_tree(values: Any, *, keep: bool) -> Any:
    """Nested dictionaries, lists and tuples with every sharded tensor whole and in CPU memory, one after the other.

    Args:
        values: The same structure on all ranks, who take part; a tensor that is in it twice is gathered once.
        keep: Whether this rank keeps them; else there is None in their place.
    """
    gathered: dict[int, Tensor | None] = {}

    def visit(value: Any) -> Any:
        if isinstance(value, DTensor):
            if id(value) not in gathered:
                complete = whole(value.detach())
                gathered[id(value)] = complete.cpu() if keep else None
            return gathered[id(value)]
        if isinstance(value, Tensor):
            return value.detach()
        if isinstance(value, dict):
            return {key: visit(each) for key, each in value.items()}
        return type(value)(map(visit, value)) if isinstance(value, (list, tuple)) else value

    return visit(values)
