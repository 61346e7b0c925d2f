"""Models to measure with: shapes with random weights, saved where an engine can read them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from visplay.modules import VLM, Qwen2_5_VL
from visplay.tiny import BASE


@dataclass(frozen=True)
class Shape:
    """A Qwen2.5-VL to be, and the images it is asked about.

    Args:
        side: Side of a square image, pixels.
        text: Overrides of the base's text configuration.
        vision: Overrides of the base's vision configuration.
    """

    side: int
    text: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] = field(default_factory=dict)


_SMALL_TEXT = {
    "vocab_size": 4096,
    "max_position_embeddings": 4096,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]},
}
_SMALL_VISION = {"hidden_size": 256, "intermediate_size": 512, "window_size": 112}
_LARGE_TEXT = {
    "max_position_embeddings": 32768,
    "initializer_range": 0.02,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [16, 24, 24]},
}
_LARGE_VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "initializer_range": 0.02,
}

SHAPES = {
    "tiny": Shape(side=56),
    "20m": Shape(
        side=224,
        text=_SMALL_TEXT
        | {"hidden_size": 384, "intermediate_size": 1152, "num_hidden_layers": 8, "num_attention_heads": 6},
        vision=_SMALL_VISION | {"depth": 6, "out_hidden_size": 384, "fullatt_block_indexes": [2, 5]},
    ),
    "8m": Shape(
        side=224,
        text=_SMALL_TEXT
        | {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 4},
        vision=_SMALL_VISION | {"depth": 3, "out_hidden_size": 256, "fullatt_block_indexes": [2]},
    ),
    "3b": Shape(
        side=448,
        text=_LARGE_TEXT
        | {
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
        },
        vision=_LARGE_VISION | {"out_hidden_size": 2048},
    ),
    "7b": Shape(
        side=448,
        text=_LARGE_TEXT
        | {
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "tie_word_embeddings": False,
        },
        vision=_LARGE_VISION | {"out_hidden_size": 3584},
    ),
    "mimo": Shape(
        side=448,
        text=_LARGE_TEXT
        | {
            "vocab_size": 151680,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "tie_word_embeddings": False,
        },
        vision=_LARGE_VISION | {"out_hidden_size": 4096},
    ),
}


class _RandomWeights(VLM):
    """Draws its weights on a device, in any precision, instead of reading them."""

    shape: Shape
    where: torch.device
    dtype: torch.dtype

    def _load_model(self) -> Any:
        torch.manual_seed(0)
        with self.where:
            model = Qwen2_5_VLForConditionalGeneration._from_config(
                make_config(self.shape), dtype=self.dtype, attn_implementation=self.attn_implementation
            )
        model.generation_config.eos_token_id = model.config.text_config.eos_token_id
        return model.train()


class RandomPolicy(Qwen2_5_VL, _RandomWeights):
    """A policy of a shape with random weights that are on no disk.

    Args:
        shape: What it is to be.
        directory: Where its configuration and its processor are written, for engines.
        device: Where the weights are drawn.
        dtype: Of the weights.
        **settings: Of ``Qwen2_5_VL``.
    """

    def __init__(self, shape: Shape, directory: Path, device: str, dtype: torch.dtype, **settings: Any) -> None:
        _save_processor(shape, directory)
        make_config(shape).save_pretrained(directory)
        super().__init__(str(directory), **settings)
        self.shape, self.where, self.dtype = shape, torch.device(device), dtype
        self.load()
        self.to(device)


def make_policy(name: str, directory: Path, device: str) -> Qwen2_5_VL:
    """A policy of a named shape, on a device; the embedded base itself if it is the tiny one."""
    shape, path = SHAPES[name], BASE
    if shape.text:
        path = directory / name
        _save(shape, path)
    policy = Qwen2_5_VL(str(path), max_context_tokens=1024)
    policy.load()
    policy.eval().model.to(device)
    return policy


def make_config(shape: Shape) -> Qwen2_5_VLConfig:
    """The base's configuration with the overrides of a shape."""
    settings = json.loads((BASE / "config.json").read_text())
    settings["text_config"] |= shape.text | {"layer_types": None}
    settings["vision_config"] |= shape.vision
    settings["tie_word_embeddings"] = settings["text_config"]["tie_word_embeddings"]
    return Qwen2_5_VLConfig(**settings)


def _save(shape: Shape, path: Path) -> None:
    config = make_config(shape)
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = config.text_config.eos_token_id
    model.save_pretrained(path)
    _save_processor(shape, path)


def save_empty(name: str, path: Path) -> None:
    """Write the configuration and the processor of a named shape, without weights."""
    make_config(SHAPES[name]).save_pretrained(path)
    _save_processor(SHAPES[name], path)


def _save_processor(shape: Shape, path: Path) -> None:
    processor = AutoProcessor.from_pretrained(BASE)
    images = processor.image_processor
    images.patch_size = make_config(shape).vision_config.patch_size
    images.size = {"shortest_edge": 56**2, "longest_edge": shape.side**2}
    processor.save_pretrained(path)
