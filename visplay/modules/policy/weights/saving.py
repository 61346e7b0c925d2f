"""Writing a policy as a Hugging Face directory: merged, or the adapter alone, cast once from the float32 masters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from visplay.modules.policy.weights.adapters import Adaptable
from visplay.modules.policy.weights.loading import ADAPTER_CONFIG

ADAPTER_WEIGHTS = "adapter_model.safetensors"
PROCESSOR_BYTES = 32 << 20
"""Room for tokenizer, processor and configuration files."""
_PREFIX = "base_model.model."  # of peft's names


@dataclass(frozen=True)
class ExportFormat:
    """What is written of a policy.

    Args:
        dtype: Of the weights in the files, and what the configuration says that they are.
        adapter_only: Whether the adapter alone is written, as peft does, to be put on its base; else it is merged.
    """

    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    adapter_only: bool = False

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type itself."""
        return getattr(torch, self.dtype)


def write_policy(policy: Adaptable, directory: str | Path, form: ExportFormat) -> None:
    """Write weights as safetensors, configuration, generation config, processor, tokenizer and chat template.

    Every weight is cast once: an adapter is merged in float32 before that.

    Raises:
        ValueError: ``adapter_only``, and the policy is no adapter.
    """
    directory, dtype = Path(directory), form.torch_dtype
    directory.mkdir(parents=True, exist_ok=True)
    if form.adapter_only:
        weights = {
            f"{_PREFIX}{name}": weight.detach().to("cpu", dtype).contiguous()
            for name, weight in _adapter_weights(policy).items()
        }
        assert policy.adapters is not None, "there are weights"
        save_file(weights, directory / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        config = policy.adapters.config(dropout=0.0)
        config.base_model_name_or_path, config.revision, config.inference_mode = policy.path, policy.revision, True
        config.save_pretrained(directory)
        policy.model.generation_config.save_pretrained(directory)
    else:
        state = {name: weight.to("cpu", dtype) for name, weight in policy.weights()}
        state |= {name: buffer.cpu() for name, buffer in _kept_buffers(policy.model)}
        policy.model.save_pretrained(directory, state_dict=state, safe_serialization=True)
        _name_dtype(directory / "config.json", form.dtype)
    policy.processor.save_pretrained(directory)


def export_bytes(policy: Adaptable, form: ExportFormat) -> int:
    """At most how many bytes ``write_policy`` writes."""
    if form.adapter_only:
        elements = sum(weight.numel() for weight in _adapter_weights(policy).values())
    else:
        elements = sum(weight.numel() for name, weight in policy.named_weights() if ".lora_" not in name)
        elements += sum(buffer.numel() for _, buffer in _kept_buffers(policy.model))
    return elements * form.torch_dtype.itemsize + PROCESSOR_BYTES


def _kept_buffers(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Buffers that belong to a checkpoint."""
    weights = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return ((name, tensor) for name, tensor in model.state_dict().items() if name not in weights)


def _name_dtype(path: Path, dtype: str) -> None:
    """Have a configuration say the type of the weights wherever it says one."""

    def name(settings: dict[str, Any]) -> dict[str, Any]:
        named = {key: name(value) if isinstance(value, dict) else value for key, value in settings.items()}
        return {key: dtype if key in ("dtype", "torch_dtype") else value for key, value in named.items()}

    settings = {"dtype": dtype} | json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(name(settings), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _adapter_weights(policy: Adaptable) -> dict[str, torch.nn.Parameter]:
    if policy.adapters is None or policy.adapter is None:
        raise ValueError("adapter_only: this policy is no adapter but whole weights; give false")
    return policy.adapters.weights(policy.adapter)


@torch.no_grad()
def merge_adapter(model: Any, directory: Path) -> None:
    """Add an exported adapter to the weights of the model that it belongs to.

    Raises:
        ValueError: It is not plain LoRA, or the model has no layer of that name and shape.
    """
    config = json.loads((directory / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    for key in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save"):
        if config.get(key):
            raise ValueError(
                f"path: {str(directory)!r} is an adapter with {key}, which is not read here; merge it first"
            )
    weights, layers = load_file(directory / ADAPTER_WEIGHTS), dict(model.named_parameters())
    for name in [name for name in weights if name.endswith(".lora_A.weight")]:
        layer = f"{name.removeprefix(_PREFIX).removesuffix('.lora_A.weight')}.weight"
        down, up = weights[name].float(), weights[name.replace(".lora_A.", ".lora_B.")].float()
        if layer not in layers or layers[layer].shape != (len(up), down.shape[1]):
            raise ValueError(f"path: {str(directory)!r} is an adapter of another model: there is no such {layer!r}")
        layers[layer].add_((config["lora_alpha"] / config["r"] * (up @ down)).to(layers[layer]))
