"""Where weights reach vLLM: ``load`` brings them in, ``verify`` proves by exact checksums that they have arrived.

A server is sent them by ``vllm_server_transfer`` and takes them in ``vllm_server_worker.ServerWorker``; its checksums
are those of this file. ``load``, ``repack`` and ``loaded_weights`` run next to vLLM's model, in whatever process it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from visplay.callbacks.engines.engine import WrongWeightsError
from visplay.modules.policy.vlm import VLM

_CHUNK = 1 << 22  # elements hashed at a time, so that the integers take little memory
_FIRST, _SECOND = -7046029254386353131, -4658895280553007687  # odd, as 64-bit integers
_PACKED = " (packed)"
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def load(llm: Any, weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> None:
    """Load weights into a ``vllm.LLM`` in this process, tensor by tensor, and forget what was computed with others.

    Args:
        llm: The engine.
        weights: Whole tensors under the names of released checkpoints.
        dtype: Of the engine's weights.
    """
    typed = ((name, weight.to(dtype)) for name, weight in weights)
    llm.collective_rpc("reload_weights", kwargs={"weights_iterator": typed})
    repack(llm.llm_engine.model_executor.driver_worker.worker.model_runner.model)
    llm.reset_prefix_cache()
    llm.llm_engine.engine_core.reset_encoder_cache()  # both halves; the reload has emptied the worker's alone


def repack(model: nn.Module) -> None:
    """Renew the packed copies that a reload leaves as they were: those of layers that keep their weight, on a CPU."""
    layers: Iterable[Any] = filter(_is_packed, model.modules())
    for layer in layers:
        if layer.weight.numel():
            from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

            dispatch_cpu_unquantized_gemm(layer, remove_weight=False)


class LoadedWeights(NamedTuple):
    """What one worker computes with.

    Args:
        checksums: Of every tensor, by the engine's name.
        sources: The trainer's tensors that are fused in each, by the engine's name.
    """

    checksums: dict[str, int]
    sources: dict[str, list[str]]


def verify(policy: VLM, sent: Mapping[str, int], workers: Sequence[LoadedWeights], engine: str) -> None:
    """Compare every tensor that an engine computes with with the policy's.

    Args:
        policy: Whose weights were sent.
        sent: Checksums of its weights, whole, in the engine's dtype.
        workers: What each worker of the engine has loaded for these names.
        engine: The engine in the error's words.

    Raises:
        WrongWeightsError: A tensor differs.
    """
    wrong = differing(sent, workers)
    if wrong:
        raise WrongWeightsError(
            f"{engine} holds other weights than {policy.name!r} at version {policy.version} in {len(wrong)} of "
            f"{len(workers[0].sources)} tensors: {', '.join(wrong[:5])}; nothing was sampled. Check the names that "
            f"{type(policy).__name__}.weights() gives them, and that nothing else writes to the engine"
        )


def checksum(tensor: Tensor) -> int:
    """Sum of a hash of every element's bits, modulo 2**64.

    Exact, whatever the order of the elements, and additive: the checksum of a fused tensor is the sum of its parts'.
    Zeros count nothing, so padding leaves it as it is; 0.0 and -0.0 are one.

    Example:
        >>> parts = torch.tensor([1.0, 2.0]), torch.tensor([3.0])
        >>> checksum(torch.cat(parts)) == (checksum(parts[0]) + checksum(parts[1])) % 2**64
        True
    """
    total = 0
    for chunk in tensor.detach().reshape(-1).split(_CHUNK) if tensor.numel() else ():
        bits = (chunk + 0.0).view(_BITS[chunk.element_size()]).long() * _FIRST
        bits = (bits ^ (bits >> 31)) * _SECOND
        total += int((bits ^ (bits >> 29)).sum())
    return total % 2**64


def checksums(weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> dict[str, int]:
    """Checksums of named weights as an engine of this dtype should have them."""
    return {name: checksum(weight.to(dtype)) for name, weight in weights}


def differing(sent: Mapping[str, int], workers: Sequence[LoadedWeights]) -> list[str]:
    """Names of the engine's tensors that are not what the trainer sent.

    Args:
        sent: Checksums of the trainer's tensors.
        workers: What each rank of a tensor-parallel group has: a part of a tensor, or a copy of all of it.

    Example:
        >>> sources = {"qkv": ["q", "k", "v"], "norm": ["norm"]}
        >>> sent = {"q": 1, "k": 2, "v": 3, "norm": 7}
        >>> differing(sent, [LoadedWeights({"qkv": 6, "norm": 8}, sources)])
        ['norm']
    """
    found = []
    for name, parts in workers[0].sources.items():
        wanted = sum(sent[part] for part in parts) % 2**64
        values = [worker.checksums[name] for worker in workers]
        if not parts or (sum(values) % 2**64 != wanted and any(value != wanted for value in values)):
            found.append(name)
    return found


def loaded_weights(model: nn.Module, names: Sequence[str]) -> LoadedWeights:
    """What vLLM's model computes with, and which of the trainer's tensors (``names``) each tensor is made of.

    A layer with a packed copy multiplies by that; a tied weight may have one besides itself.

    Raises:
        ValueError: The model has no tensor for a name.
    """
    sums: dict[str, int] = {}
    for prefix, module in model.named_modules():
        for name, tensor in module.named_parameters(prefix, recurse=False):
            if tensor.numel():
                sums[name] = checksum(_as_sent(module, tensor))
            if name.endswith(".weight") and _is_packed(module):
                sums[name + _PACKED if tensor.numel() else name] = _packed_checksum(module, tensor)
    sources: dict[str, list[str]] = {name.removesuffix(_PACKED): [] for name in sums}
    unknown = []
    for name in names:
        mapped = _mapped(model, name)
        fused = mapped and _fused_name(model, mapped, sources)
        if fused:
            sources[fused].append(name)
        elif mapped:
            unknown.append(name)
    if unknown:
        raise ValueError(f"weights: {type(model).__name__} of vLLM has no tensor for {unknown[:5]}")
    for name in (name for name, parts in sources.items() if not parts and name.endswith("lm_head.weight")):
        sources[name] = next((parts for other, parts in sources.items() if "embed_tokens.weight" in other), [])
    return LoadedWeights(sums, {name: sources[name.removesuffix(_PACKED)] for name in sums})


def _is_packed(module: nn.Module) -> bool:
    """Whether the layer multiplies by a re-packed copy of its weight, as vLLM does on a CPU."""
    return hasattr(module, "cpu_linear")


def _as_sent(module: Any, tensor: Tensor) -> Tensor:
    """A tensor in the dtype of its layer's weight, where nothing is lost: vLLM's AMX kernels keep a bias in float32."""
    if not _is_packed(module) or tensor.dtype == module.weight.dtype:
        return tensor
    narrow = tensor.to(module.weight.dtype)
    return narrow if narrow.to(tensor.dtype).equal(tensor) else tensor


def _packed_checksum(module: Any, weight: Tensor) -> int:
    """Checksum of the weight that a layer multiplies by: of its products with the unit vectors, which are exact."""
    inputs = getattr(module, "input_size_per_partition", None) or getattr(module, "input_size", None)
    unit = torch.eye(int(inputs or module.embedding_dim), dtype=weight.dtype)
    return sum(checksum(module.cpu_linear(vectors, weight, None)) for vectors in unit.split(256)) % 2**64


def _mapped(model: Any, name: str) -> str | None:
    """A name as the model and those within it, one after another, map it; None for a tensor that one has no use for."""
    mapped = model.hf_to_vllm_mapper.map_name(name) if hasattr(model, "hf_to_vllm_mapper") else name
    child, _, rest = (mapped or "").partition(".")
    within = getattr(model, child, None) if child else None
    if not isinstance(within, nn.Module):
        return mapped
    rest = _mapped(within, rest)
    return None if rest is None else f"{child}.{rest}"


def _fused_name(model: Any, mapped: str, engine_names: Mapping[str, Any]) -> str | None:
    """The engine's name of the tensor that a tensor of the trainer, whose name is mapped, is stored in."""
    if mapped in engine_names:
        return mapped
    for fused, parts in getattr(model, "packed_modules_mapping", {}).items():
        for part in parts:
            candidate = f".{mapped}".replace(f".{part}.", f".{fused}.")[1:]
            if candidate != mapped and candidate in engine_names:
                return candidate
    return None
