"""Models to measure with: shapes with random weights, saved where an engine can read them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from visplay.modules import Qwen2_5_VL
from visplay.tiny import BASE


@dataclass(frozen=True)
class Shape:
    """A Qwen2.5-VL to be, and the pictures it is asked about.

    Args:
        side: Side of a square picture, pixels.
        text: Overrides of the base's text configuration.
        vision: Overrides of the base's vision configuration.
    """

    side: int
    text: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] = field(default_factory=dict)


SHAPES = {
    "tiny": Shape(side=56),
    "20m": Shape(
        side=224,
        text={
            "vocab_size": 4096,
            "hidden_size": 384,
            "intermediate_size": 1152,
            "num_hidden_layers": 8,
            "num_attention_heads": 6,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]},
        },
        vision={
            "depth": 6,
            "hidden_size": 256,
            "intermediate_size": 512,
            "out_hidden_size": 384,
            "window_size": 112,
            "fullatt_block_indexes": [2, 5],
        },
    ),
    "3b": Shape(
        side=448,
        text={
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [16, 24, 24]},
        },
        vision={
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 2048,
            "patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
    ),
}


def make_policy(name: str, folder: Path, device: str) -> Qwen2_5_VL:
    """A policy of a named shape, on a device; the embedded base itself if it is the tiny one."""
    shape, path = SHAPES[name], BASE
    if shape.text:
        path = folder / name
        _save(shape, path)
    policy = Qwen2_5_VL(str(path), max_context_tokens=1024)
    policy.load()
    policy.eval().model.to(device)
    return policy


def _save(shape: Shape, path: Path) -> None:
    settings = json.loads((BASE / "config.json").read_text())
    settings["text_config"] |= shape.text | {"layer_types": None}
    settings["vision_config"] |= shape.vision
    config = Qwen2_5_VLConfig(**settings)
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = settings["text_config"]["eos_token_id"]
    model.save_pretrained(path)
    processor = AutoProcessor.from_pretrained(BASE)
    images = processor.image_processor
    images.patch_size = config.vision_config.patch_size
    images.size = {"shortest_edge": 56**2, "longest_edge": shape.side**2}
    processor.save_pretrained(path)
