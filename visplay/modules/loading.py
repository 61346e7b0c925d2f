"""Reading a Hugging Face checkpoint: a local directory or a Hub name, safetensors only, no code from the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor


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
    folder = Path(path)
    needed = ("config.json", "tokenizer_config.json")
    if folder.is_dir() and not all((folder / name).is_file() for name in needed):
        missing = [name for name in needed if not (folder / name).is_file()]
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
