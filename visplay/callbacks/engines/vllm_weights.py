"""What vLLM holds, tensor by tensor: exact checksums that prove it, and copies that a reload leaves stale.

These functions run beside vLLM's model, in whatever process it lives; they import vLLM only where they need it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_PIECE = 1 << 22  # elements hashed at a time, so that the integers take little memory
_FIRST, _SECOND = -7046029254386353131, -4658895280553007687  # odd, as 64-bit integers
_PACKED = " (packed)"
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Held(NamedTuple):
    """What one worker holds.

    Args:
        checksums: Of every tensor, by the engine's name.
        sources: The trainer's tensors that are fused in each, by the engine's name.
    """

    checksums: dict[str, int]
    sources: dict[str, list[str]]


def checksum(tensor: Tensor) -> int:
    """Sum of a hash of every element's bits, modulo 2**64.

    Exact, whatever the order of the elements, and additive: the checksum of a fused tensor is the sum of its parts'.
    Zeros count nothing, so padding rows leave it as it is; 0.0 and -0.0 are one.

    Example:
        >>> parts = torch.tensor([1.0, 2.0]), torch.tensor([3.0])
        >>> checksum(torch.cat(parts)) == (checksum(parts[0]) + checksum(parts[1])) % 2**64
        True
    """
    flat = tensor.detach().reshape(-1)
    return sum(_hash(piece) for piece in flat.split(_PIECE)) % 2**64 if len(flat) else 0


def _hash(piece: Tensor) -> int:
    bits = (piece + 0.0).view(_BITS[piece.element_size()]).long() * _FIRST
    bits = (bits ^ (bits >> 31)) * _SECOND
    return int((bits ^ (bits >> 29)).sum())


def checksums(weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> dict[str, int]:
    """Checksums of named weights as an engine of this dtype should hold them."""
    return {name: checksum(weight.to(dtype)) for name, weight in weights}


def held(model: nn.Module, names: Sequence[str]) -> Held:
    """What vLLM's model computes with, and which of the trainer's tensors (``names``) each tensor is made of."""
    sums = dict(_checksums_of(model))
    return Held(sums, _sources(model, sums, names))


def _checksums_of(model: nn.Module) -> Iterator[tuple[str, int]]:
    """Of every parameter, and of the packed copy that a layer multiplies by; a tied weight may have one of its own."""
    for prefix, module in model.named_modules():
        for name, tensor in module.named_parameters(prefix, recurse=False):
            if tensor.numel():
                yield name, checksum(tensor)
            if name.endswith(".weight") and _packed(module):
                packed = sum(checksum(rows) for rows in _unpack(module, tensor)) % 2**64
                yield name + _PACKED if tensor.numel() else name, packed


def _packed(module: nn.Module) -> bool:
    """Whether the layer multiplies by a re-packed copy of its weight, as vLLM does on a CPU."""
    return hasattr(module, "cpu_linear")


def _unpack(module: Any, weight: Tensor) -> Iterator[Tensor]:
    """Columns of the weight that the layer multiplies by: its products with the unit vectors, which are exact."""
    inputs = getattr(module, "input_size_per_partition", None) or getattr(module, "input_size", None)
    unit = torch.eye(int(inputs or module.embedding_dim), dtype=weight.dtype)
    for rows in unit.split(256):
        yield module.cpu_linear(rows, weight, None)


def _sources(model: Any, engine_names: Collection[str], names: Sequence[str]) -> dict[str, list[str]]:
    sources: dict[str, list[str]] = {name.removesuffix(_PACKED): [] for name in engine_names}
    strangers = []
    for name in names:
        mapped = _mapped(model, name)
        place = mapped and _place(model, mapped, sources)
        if place:
            sources[place].append(name)
        elif mapped:
            strangers.append(name)
    if strangers:
        raise ValueError(f"weights: {type(model).__name__} of vLLM has no place for {strangers[:5]}")
    for name in (name for name, parts in sources.items() if not parts and name.endswith("lm_head.weight")):
        sources[name] = next((parts for other, parts in sources.items() if "embed_tokens.weight" in other), [])
    return {name: sources[name.removesuffix(_PACKED)] for name in engine_names}


def _mapped(model: Any, name: str) -> str | None:
    """A name as the model and those within it, one after another, map it; None for a tensor that one has no use for."""
    mapped = model.hf_to_vllm_mapper.map_name(name) if hasattr(model, "hf_to_vllm_mapper") else name
    child, _, rest = (mapped or "").partition(".")
    within = getattr(model, child, None) if child else None
    if not isinstance(within, nn.Module):
        return mapped
    rest = _mapped(within, rest)
    return None if rest is None else f"{child}.{rest}"


def _place(model: Any, mapped: str, engine_names: Mapping[str, Any]) -> str | None:
    """The engine's name of the tensor that holds a tensor of the trainer, whose name is mapped."""
    if mapped in engine_names:
        return mapped
    for fused, parts in getattr(model, "packed_modules_mapping", {}).items():
        for part in parts:
            candidate = f".{mapped}".replace(f".{part}.", f".{fused}.")[1:]
            if candidate != mapped and candidate in engine_names:
                return candidate
    return None


def differing(sent: Mapping[str, int], workers: Sequence[Held]) -> list[str]:
    """Names of the engine's tensors that are not what the trainer sent.

    Args:
        sent: Checksums of the trainer's tensors.
        workers: What each rank of a tensor-parallel group holds: a part of a tensor, or a copy of all of it.

    Example:
        >>> sources = {"qkv": ["q", "k", "v"], "norm": ["norm"]}
        >>> sent = {"q": 1, "k": 2, "v": 3, "norm": 7}
        >>> differing(sent, [Held({"qkv": 6, "norm": 8}, sources)])
        ['norm']
    """
    found = []
    for name, parts in workers[0].sources.items():
        wanted = sum(sent[part] for part in parts) % 2**64
        values = [worker.checksums[name] for worker in workers]
        if not parts or (sum(values) % 2**64 != wanted and any(value != wanted for value in values)):
            found.append(name)
    return found


def repack(model: nn.Module) -> None:
    """Renew the packed copies that a reload leaves as they were: those of layers that keep their weight, on a CPU."""
    layers: Iterable[Any] = filter(_packed, model.modules())
    for layer in layers:
        if layer.weight.numel():
            from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

            dispatch_cpu_unquantized_gemm(layer, remove_weight=False)
