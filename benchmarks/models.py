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


def _text(width: int, inner: int, layers: int, heads: int, **further: Any) -> dict[str, Any]:
    sizes = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers}
    return sizes | {"num_attention_heads": heads} | further


def _rope(theta: float, *section: int) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta, "mrope_section": list(section)}}


_SMALL_TEXT = {"vocab_size": 4096, "max_position_embeddings": 4096} | _rope(1e4, 8, 12, 12)
_SMALL_VISION = {"hidden_size": 256, "intermediate_size": 512, "window_size": 112}
_LARGE_TEXT = {"max_position_embeddings": 32768, "initializer_range": 0.02} | _rope(1e6, 16, 24, 24)
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


def _small(width: int, inner: int, layers: int, heads: int, depth: int, full: list[int]) -> Shape:
    vision = _SMALL_VISION | {"depth": depth, "out_hidden_size": width, "fullatt_block_indexes": full}
    return Shape(224, _SMALL_TEXT | _text(width, inner, layers, heads), vision)


def _large(vocabulary: int, width: int, inner: int, layers: int, heads: int, keys: int, tied: bool = False) -> Shape:
    further = {"num_key_value_heads": keys, "vocab_size": vocabulary, "tie_word_embeddings": tied}
    text = _LARGE_TEXT | _text(width, inner, layers, heads, **further)
    return Shape(448, text, _LARGE_VISION | {"out_hidden_size": width})


SHAPES = {
    "tiny": Shape(side=56),
    "20m": _small(384, 1152, 8, 6, depth=6, full=[2, 5]),
    "40m": _small(512, 1536, 10, 8, depth=6, full=[2, 5]),
    "100m": _small(768, 2048, 14, 12, depth=6, full=[2, 5]),
    "300m": _small(1024, 4096, 18, 16, depth=6, full=[2, 5]),
    "8m": _small(256, 768, 6, 4, depth=3, full=[2]),
    "3b": _large(151936, 2048, 11008, layers=36, heads=16, keys=2, tied=True),
    "7b": _large(152064, 3584, 18944, layers=28, heads=28, keys=4),
    "mimo": _large(151680, 4096, 11008, layers=36, heads=32, keys=8),
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
        path, config = directory / name, make_config(shape)
        torch.manual_seed(0)
        model = Qwen2_5_VLForConditionalGeneration(config)
        model.generation_config.eos_token_id = config.text_config.eos_token_id
        model.save_pretrained(path)
        _save_processor(shape, path)
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
