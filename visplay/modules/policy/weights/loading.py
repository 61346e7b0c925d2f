"""Reading a Hugging Face checkpoint: a local directory or a Hub name, safetensors only, no code from the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import transformers
from transformers import AutoProcessor, AutoTokenizer

from visplay.data.hub_names import check_reachable

ADAPTER_CONFIG = "adapter_config.json"
"""What an adapter has instead of a model's configuration; the name is peft's."""
Part = Literal["vision_tower", "projector", "language_model"]


def load_processor(path: str, revision: str | None) -> Any:
    """Load tokenizer and image processor.

    Raises:
        FileNotFoundError: ``path`` is a directory without a model or without a processor, or nothing is found there.
    """
    processor = _load(AutoProcessor, path, revision, "processor", "tokenizer and image processor")
    if not hasattr(processor, "image_processor"):
        raise FileNotFoundError(
            f"path: {path!r} has a tokenizer but no image processor; save it too, or take CausalLM for a model of text"
        )
    return processor


def load_tokenizer(path: str, revision: str | None) -> Any:
    """Load the tokenizer of a model without images.

    Raises:
        FileNotFoundError: ``path`` is a directory without a model or without a tokenizer, or nothing is found there.
        ValueError: It has no chat template.
    """
    tokenizer = _load(AutoTokenizer, path, revision, "tokenizer", "tokenizer")
    if not tokenizer.chat_template:
        raise ValueError(
            f"path: the tokenizer of {path!r} has no chat template; take a model that was tuned to follow one"
        )
    return tokenizer


def gguf_file(path: str, *, weights: bool = False) -> tuple[str, dict[str, Any]]:
    """A path as ``from_pretrained`` takes it: a GGUF file as its directory and keyword arguments.

    Args:
        path: Of a directory, a name on the Hub, or a file.
        weights: Whether it is given for weights, which are unpacked: packed ones do not learn.

    Example:
        >>> gguf_file("models/small.gguf"), gguf_file("models/small")
        (('models', {'gguf_file': 'small.gguf'}), ('models/small', {}))
    """
    file = Path(path)
    if file.suffix != ".gguf":
        return path, {}
    named: dict[str, Any] = {"gguf_file": file.name}
    if weights and hasattr(transformers, "GgufConfig"):  # earlier versions always unpack
        named["quantization_config"] = transformers.GgufConfig(dequantize=True)
    return str(file.parent), named


def _load(loader: Any, path: str, revision: str | None, what: str, needed: str) -> Any:
    directory = Path(path)
    config = ADAPTER_CONFIG if (directory / ADAPTER_CONFIG).is_file() else "config.json"
    files = (config, "tokenizer_config.json")
    if directory.is_dir() and not all((directory / name).is_file() for name in files):
        missing = [name for name in files if not (directory / name).is_file()]
        raise FileNotFoundError(f"path: {path!r} has no {' and no '.join(missing)}; save model AND {what}")
    try:
        check_reachable(path, "model")
        where, named = gguf_file(path)
        return loader.from_pretrained(where, revision=revision, trust_remote_code=False, **named)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"path: no {what} could be loaded from {path!r} (a Hugging Face directory or Hub name with weights, "
            f"{needed} is needed): {error}"
        ) from error
