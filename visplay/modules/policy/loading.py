"""Reading a Hugging Face checkpoint: a local directory or a Hub name, safetensors only, no code from the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

ADAPTER_CONFIG = "adapter_config.json"
"""What an adapter has in the place of a model's configuration; the name is peft's."""
Part = Literal["vision_tower", "projector", "language_model"]


def check_loading(min_pixels: int | None, max_pixels: int | None, max_context_tokens: int | None) -> None:
    """Reject what no checkpoint could be loaded with.

    Raises:
        ValueError: No context, or limits that contradict each other.
    """
    if max_context_tokens is not None and max_context_tokens < 1:
        raise ValueError(f"max_context_tokens: {max_context_tokens} must be at least 1, or null")
    given = [pixels for pixels in (min_pixels, max_pixels) if pixels is not None]
    if any(pixels < 1 for pixels in given) or given != sorted(given):
        raise ValueError(f"min_pixels={min_pixels}, max_pixels={max_pixels}: need 1 <= min_pixels <= max_pixels")


def load_model(path: str, revision: str | None, attn_implementation: str) -> Any:
    """Load the weights in float32, ready to be trained."""
    return AutoModelForImageTextToText.from_pretrained(
        path, revision=revision, dtype=torch.float32, attn_implementation=attn_implementation, use_safetensors=True
    ).train()


def load_processor(path: str, revision: str | None) -> Any:
    """Load tokenizer and image processor.

    Raises:
        FileNotFoundError: ``path`` is a directory without a model or without a processor, or nothing is found there.
    """
    directory = Path(path)
    config = ADAPTER_CONFIG if (directory / ADAPTER_CONFIG).is_file() else "config.json"
    needed = (config, "tokenizer_config.json")
    if directory.is_dir() and not all((directory / name).is_file() for name in needed):
        missing = [name for name in needed if not (directory / name).is_file()]
        raise FileNotFoundError(f"path: {path!r} holds no {' and no '.join(missing)}; save model AND processor")
    try:
        processor = AutoProcessor.from_pretrained(path, revision=revision)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"path: no processor could be loaded from {path!r} (a Hugging Face directory or Hub name with "
            f"weights, tokenizer and image processor is needed): {error}"
        ) from error
    if not hasattr(processor, "image_processor"):
        raise FileNotFoundError(f"path: {path!r} has a tokenizer but no image processor; save it too")
    return processor
