"""A model as its checkpoint's own processor and transformers run it: what a family must agree with."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from visplay.modules.policy.vlm import VLM

_TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids")
_NOT_PASSED = ("attention_mask", "batch_num_images")
"""There is one row without padding; and images are a flat list, of which LLaVA-OneVision cuts each into tiles."""
_UNBOUNDED = 2**30
"""A window that nothing is longer than."""


@dataclass
class Trace:
    """What a language model was given and gave for one row of tokens, call by call.

    Args:
        embeddings: (L, H) of each call.
        positions: What each call's rotary embedding was given, last axis L; None where there is no such module.
        hidden: (L, H) of each call.
    """

    embeddings: list[Tensor] = field(default_factory=list)
    positions: list[Tensor | None] = field(default_factory=list)
    hidden: list[Tensor] = field(default_factory=list)

    def joined_positions(self) -> Tensor | None:
        """Positions of all calls, last axis L."""
        given = [each for each in self.positions if each is not None]
        return torch.cat(given, -1) if given and len(given) == len(self.positions) else None


@contextmanager
def traced(vlm: VLM) -> Iterator[Trace]:
    """Note what the language model is given and gives within the block."""
    trace, text_model = Trace(), vlm.text_model

    def before(_: Any, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        embeddings = given.get("inputs_embeds")
        if embeddings is None:  # a language model is given ids
            embeddings = vlm.model.get_input_embeddings()(given["input_ids"])
        trace.embeddings.append(embeddings[0])
        trace.positions.append(None)

    def rotate(_: Any, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        trace.positions[-1] = given["position_ids"] if "position_ids" in given else args[1]

    def after(_: Any, args: tuple[Any, ...], out: Any) -> None:
        trace.hidden.append(out[0][0])

    hooks = [
        text_model.register_forward_pre_hook(before, with_kwargs=True),
        text_model.register_forward_hook(after),
    ]
    rotary = getattr(text_model, "rotary_emb", None)
    if rotary is not None:
        hooks.append(rotary.register_forward_pre_hook(rotate, with_kwargs=True))
    try:
        yield trace
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def attention_of(model: Any, implementation: str) -> Iterator[None]:
    """Have a model attend by another of transformers' implementations, where it knows it."""
    before = model.config._attn_implementation
    with suppress(ValueError):
        model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def unbounded_windows(vlm: VLM) -> Iterator[None]:
    """Have windows see everything, in the model and in what is read of its configuration."""
    configs = [vlm.model.config.get_text_config(), vlm.text_model.config]
    windows = [(config, config.sliding_window) for config in configs if getattr(config, "sliding_window", None)]
    for config, _ in windows:
        config.sliding_window = _UNBOUNDED
    try:
        yield
    finally:
        for config, window in windows:
            config.sliding_window = window


def model_feature_id(vlm: VLM) -> int:
    """Id of the tokens whose embeddings the model itself replaces by the features of images."""
    found = getattr(vlm.model.config, "image_token_id", None)
    return vlm.feature_token_id if found is None else found


class Reference:
    """The checkpoint's own processor, and the model's own forward over prompt and completion as one row.

    Args:
        vlm: A policy that is loaded.
    """

    def __init__(self, vlm: VLM) -> None:
        self.vlm = vlm
        self._text_type = 0  # of a completion's tokens: what an image's are not
        self._parameters = {
            name
            for owner in (type(vlm.model), type(vlm.model.base_model))
            for name in inspect.signature(owner.forward).parameters
        }

    def read(self, text: str, images: Sequence[Image]) -> dict[str, Tensor]:
        """What the processor makes of a prompt's text, placeholders and all, for the model."""
        settings: dict[str, Any] = {"return_tensors": "pt", "add_special_tokens": False}
        if not self.vlm.takes_images:
            return self._kept(self.vlm.tokenizer([text], **settings))
        named = settings | ({"return_mm_token_type_ids": True} if "mm_token_type_ids" in self._parameters else {})
        given = list(images)
        try:
            out = self.vlm.processor(text=[text], images=given or None, **named)
        except ValueError:  # some want a list of images for each text, and one at least
            if given:
                out = self.vlm.processor(text=[text], images=[given], **named)
            else:
                out = self.vlm.tokenizer([text], **settings)
        return self._kept(out)

    def _kept(self, out: Any) -> dict[str, Tensor]:
        kept = self._parameters - set(_NOT_PASSED)
        return {name: value.to(self.vlm.device) for name, value in out.items() if name in kept}

    def logits(self, inputs: dict[str, Tensor], token_ids: Tensor, *, token_types: bool = True) -> tuple[Tensor, Trace]:
        """The logits (T, V) that predict a completion (T,), and what the language model was given and gave.

        Args:
            inputs: Of the prompt.
            token_ids: The completion.
            token_types: Whether the model is told which tokens are an image's, if it can be.
        """
        prompt = inputs["input_ids"]
        whole = dict(inputs, input_ids=torch.cat([prompt, token_ids[None]], 1))
        for name in whole.keys() & set(_TOKEN_TYPES):
            kinds = whole.pop(name)
            of_images = kinds[prompt == model_feature_id(self.vlm)]
            self._text_type = int(not bool(of_images.any())) if len(of_images) else self._text_type
            if token_types:
                whole[name] = torch.cat([kinds, kinds.new_full((1, len(token_ids)), self._text_type)], 1)
        kept = {"logits_to_keep": len(token_ids) + 1} if "logits_to_keep" in self._parameters else {}
        with traced(self.vlm) as trace:
            logits = self.vlm.model(**whole, use_cache=False, **kept).logits[0]
        return logits[-len(token_ids) - 1 : -1].float(), trace

    def logps(self, inputs: dict[str, Tensor], token_ids: Tensor, **settings: Any) -> tuple[Tensor, Trace]:
        """Log-probabilities (T,) of a completion, banned tokens excluded, and the trace; see ``logits``."""
        logits, trace = self.logits(inputs, token_ids, **settings)
        logits = logits.index_fill(-1, self.vlm.banned_token_ids, torch.finfo(torch.float32).min)
        return logits.log_softmax(-1).gather(-1, token_ids[:, None]).squeeze(-1), trace
