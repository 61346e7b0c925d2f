"""Reading a Hugging Face checkpoint: a local directory or a Hub name, safetensors only, no code from the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from transformers import AutoProcessor

from visplay.data.hub_names import check_reachable

ADAPTER_CONFIG = "adapter_config.json"
"""What an adapter has instead of a model's configuration; the name is peft's."""
Part = Literal["vision_tower", "projector", "language_model"]


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
        raise FileNotFoundError(f"path: {path!r} has no {' and no '.join(missing)}; save model AND processor")
    try:
        check_reachable(path, "model")
        processor = AutoProcessor.from_pretrained(path, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"path: no processor could be loaded from {path!r} (a Hugging Face directory or Hub name with "
            f"weights, tokenizer and image processor is needed): {error}"
        ) from error
    if not hasattr(processor, "image_processor"):
        raise FileNotFoundError(f"path: {path!r} has a tokenizer but no image processor; save it too")
    return processor
