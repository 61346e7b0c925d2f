"""Language models without images: Llama, SmolLM2, Qwen3, Gemma 3 of 270 M and 1 B, and what else is built like them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

from PIL.Image import Image
from torch import nn
from transformers import AutoModelForCausalLM

from visplay.modules.policy.vlm import VLM
from visplay.modules.policy.weights.loading import Part, load_tokenizer

_LOGIT_CHANGES = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""What some configurations call a change of the logits behind the head (Gemma 2, Cohere, Granite)."""


class CausalLM(VLM):
    """A causal language model of transformers as a policy; the arguments are those of ``VLM``.

    It is asked without images. Its logits must be the product of the last hidden states and the head alone.

    Source: transformers ``AutoModelForCausalLM``.
    """

    packs: ClassVar[bool] = True
    auto_model: ClassVar[Any] = AutoModelForCausalLM

    def read_processor(self, path: str) -> Any:
        """The tokenizer."""
        return load_tokenizer(path, self.revision)

    def _load_model(self) -> Any:
        model = super()._load_model()
        if getattr(model, "hf_quantizer", None) is not None:  # of a GGUF file: the weights are float32 by now
            model.hf_quantizer.remove_quantization_config(model)
        changes = {name: getattr(model.config, name, None) for name in _LOGIT_CHANGES}
        changed = [f"{name}={value}" for name, value in changes.items() if value not in (None, 1)]
        if getattr(model.get_output_embeddings(), "bias", None) is not None:
            changed.append("a bias of the head")
        if changed:
            raise ValueError(
                f"path: the logits of {self.path!r} are more than the head's product: {', '.join(changed)}"
            )
        return model

    @property
    def tokenizer(self) -> Any:
        """All that there is of a processor."""
        return self.processor

    @property
    def image_token_id(self) -> int:
        """No token."""
        return -1

    @property
    def feature_token_id(self) -> int:
        """No token."""
        return -1

    @property
    def text_model(self) -> Any:
        """The model without its head."""
        return self.model.base_model

    @property
    def most_image_tokens(self) -> int:
        """There are none."""
        return 0

    def limit_pixels(self, min_pixels: int | None, max_pixels: int | None) -> None:
        """There is nothing to choose.

        Raises:
            ValueError: A limit is given.
        """
        if (min_pixels, max_pixels) != (None, None):
            raise ValueError(
                f"min_pixels={min_pixels}, max_pixels={max_pixels}: {self.path!r} takes no images; give null"
            )

    @property
    def processor_settings(self) -> dict[str, Any]:
        """There is no processor."""
        return {}

    def parts(self) -> dict[Part, Sequence[nn.Module]]:
        """All of it is the language model."""
        return {"vision_tower": (), "projector": (), "language_model": (self.model,)}

    def image_tokens(self, image: Image) -> int:
        """Raise ``ValueError``: it takes no images."""
        self._reject("image_tokens")

    def process_images(self, images: Sequence[Image]) -> Any:
        """Raise ``ValueError``: it takes no images."""
        self._reject("process_images")

    def image_features(self, pixels: Any) -> NoReturn:
        """Raise ``ValueError``: it takes no images."""
        self._reject("image_features")

    def _reject(self, what: str) -> NoReturn:
        raise ValueError(f"{what}: {self.path!r} is a language model and takes no images; give a VLM")
