"""A model's sizes before any weight is loaded: its configuration, and the model itself without memory behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig

from visplay.modules.policy.vlm import VLM
from visplay.modules.policy.weights.loading import gguf_file
from visplay.modules.policy.weights.tuning import Tuning
from visplay.planning.activations import Adapted, Block
from visplay.planning.memory import Shape

AdapterSizes = Mapping[nn.Module, tuple[int, int]]
"""Rank and number of weights of the adapter of each linear layer that has one."""
_ATTENTION_OUTPUTS = ("o_proj", "out_proj", "proj", "projection_layer")


def read_config(vlm: VLM) -> Any:
    """The model's configuration, of its directory or from the Hub.

    Raises:
        FileNotFoundError: There is none.
    """
    try:
        path, named = gguf_file(vlm.path)
        return AutoConfig.from_pretrained(path, revision=vlm.revision, trust_remote_code=False, **named)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"path: no config.json could be read from {vlm.path!r}: {error}") from error


def build_empty(vlm: VLM, config: Any) -> VLM:
    """A copy of the policy whose model has shapes but no memory, and no adapters."""
    empty = vlm.unloaded()
    with torch.device("meta"):
        empty.model = empty.auto_model.from_config(config, dtype=torch.float32)
    return empty


def measure_shape(empty: VLM, tuning: Tuning | None = None) -> Shape:
    """The sizes of a model that ``build_empty`` made; weights are counted, not computed.

    Args:
        empty: The policy.
        tuning: What learns of it; None is its own.

    Raises:
        ValueError: A target of adapters that no layer has.
    """
    config = empty.model.config
    text, layers = config.get_text_config(), _longest_list(empty, "language_model")
    parts = {str(part): _count(modules) for part, modules in empty.parts().items()}
    tuning = tuning or empty.tuning
    rank = 0 if tuning.lora is None else tuning.lora.rank
    linear = [empty.model.get_submodule(name) for name in empty.adapted_layers(tuning)]
    adapted = {layer: (rank, rank * (layer.in_features + layer.out_features)) for layer in linear}
    adapters = {
        str(part): sum(adapted[m][1] for top in modules for m in top.modules() if m in adapted)
        for part, modules in empty.parts().items()
    }
    return Shape(
        text=_block(layers, text, adapted),
        text_layers=len(layers),
        vocabulary=text.vocab_size,
        tied=empty.model.get_input_embeddings().weight is empty.model.get_output_embeddings().weight,
        parts=parts | {"language_model": _count([empty.model]) - sum(parts.values()) + parts["language_model"]},
        adapters={part: count for part, count in adapters.items() if count},
        **_vision_sizes(empty, getattr(config, "vision_config", None), adapted),
    )


def _vision_sizes(empty: VLM, vision: Any, adapted: AdapterSizes) -> dict[str, Any]:
    """What ``Shape`` says of the vision tower; of a language model that it has none."""
    if vision is None:
        nothing = Block(0, 0, 0, 1, 0, gated=False, weights=0, largest=0)
        return {"vision": nothing, "vision_layers": 0, "patches_per_token": 1, "patch_inputs": 0}
    blocks, merge = _longest_list(empty, "vision_tower"), getattr(vision, "spatial_merge_size", 1)
    full = getattr(vision, "fullatt_block_indexes", [])
    window = vision.window_size // (vision.patch_size * merge) * merge if full else 0
    values = getattr(vision, "in_channels", 3) * getattr(vision, "temporal_patch_size", 1)
    return {
        "vision": _block(blocks, vision, adapted),
        "vision_layers": len(blocks),
        "patches_per_token": merge**2,
        "patch_inputs": values * prod(sides(vision.patch_size)),
        "mergers": 1 + len(getattr(vision, "deepstack_visual_indexes", ())),
        "window_patches": window**2,
        "full_layers": len(full),
    }


def sides(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width: configurations have the side of a square, or both."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _longest_list(empty: VLM, part: Any) -> nn.ModuleList:
    """The layers of a part."""
    modules = [module for each in empty.parts()[part] for module in each.modules()]
    return max((module for module in modules if isinstance(module, nn.ModuleList)), key=len)


def _block(layers: nn.ModuleList, config: Any, adapted: AdapterSizes) -> Block:
    """A layer by its modules; heads are the configuration's."""
    layer: Any = layers[0]
    width, heads = config.hidden_size, getattr(config, "num_attention_heads", None) or config.num_heads
    head = getattr(config, "head_dim", None) or width // heads
    keys = head * (getattr(config, "num_key_value_heads", None) or heads)
    matrices = [module.weight for module in layer.modules() if isinstance(module, nn.Linear)]
    named = ((name, module) for name, module in layer.named_modules() if not isinstance(module, nn.Identity))
    names = {name.rpartition(".")[2] for name, _ in named}
    return Block(
        width=width,
        queries=head * heads,
        keys=keys,
        heads=heads,
        inner=config.intermediate_size,
        gated="gate_proj" in names,
        weights=_count([layer]),
        largest=max(weight.numel() for weight in matrices),
        adapters=_adapted(layer, config.intermediate_size, adapted),
        head_norms="q_norm" in names,
        joined="qkv" in names,
        layer_norms=any(isinstance(module, nn.LayerNorm) for module in layer.modules()),
    )


def _adapted(layer: nn.Module, inner: int, adapted: AdapterSizes) -> Adapted | None:
    """The adapted products of a layer, by where their inputs come from."""
    found: dict[str, Any] = {name: module for name, module in layer.named_modules() if module in adapted}
    if not found:
        return None
    last = {name for name, module in found.items() if module.in_features == inner}
    first = {name for name, module in found.items() if module.out_features == inner} - last
    attention = found.keys() - first - last
    outputs = {name for name in attention if name.rpartition(".")[2] in _ATTENTION_OUTPUTS}
    (rank,) = {adapted[module][0] for module in found.values()}
    return Adapted(
        rank=rank,
        attention_inputs=len(attention - outputs),
        attention_output=len(outputs),
        inner_inputs=len(first),
        inner_output=len(last),
        weights=sum(adapted[module][1] for module in found.values()),
    )


def _count(modules: Iterable[nn.Module]) -> int:
    """Weights of some modules, each once."""
    return sum({id(w): w.numel() for module in modules for w in module.parameters()}.values())
