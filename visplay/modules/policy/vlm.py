"""The base VLM wrapper: a policy that prefills prompts, extends them and scores completions.

Sampling goes through two calls, ``prefill`` and ``extend``: a prompt and its image are computed once per group, and
its G completions continue from the shared key-value cache. Training packs whole groups into one row, see
``visplay.modules.policy.packing``, or goes through the same calls where that cannot be (gradients flow through the
cache). What a model family needs beyond this lives in a subclass, one family a file.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import PIL.Image
import torch
from PIL.Image import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText

from visplay.functional.grpo.logps import token_logps
from visplay.modules.policy.attention import GROUPED_SDPA
from visplay.modules.policy.collation import PromptBatch, collate
from visplay.modules.policy.hidden_states import score_from_last_layer, target_hidden_states
from visplay.modules.policy.kv_cache import KVCache
from visplay.modules.policy.prefill import extend, prefill
from visplay.modules.policy.weights.adapters import Adaptable, Adapters
from visplay.modules.policy.weights.loading import gguf_file, load_processor
from visplay.modules.policy.weights.saving import ExportFormat, write_policy
from visplay.modules.policy.weights.sharding import whole
from visplay.modules.policy.weights.tuning import Tuning
from visplay.prompts import Template, encode_prompt
from visplay.ranks import in_turn
from visplay.shipped import find_model
from visplay.types import Prompt

logger = logging.getLogger(__name__)


class VLM(Adaptable):
    """A vision-language model as a policy.

    The constructor only stores; ``load`` reads the weights. Weights are kept in float32 (an update of 1e-6 would be
    lost in bfloat16); computation in bfloat16 is the trainer's ``precision: bf16-mixed``.

    Args:
        path: Directory or Hub name of a Hugging Face checkpoint with its processor; ``visplay/tiny/base`` is the
            package's own from every directory.
        revision: Hub revision; ignored for a directory.
        attn_implementation: Attention implementation that transformers offers; with null, and with ``grouped_sdpa``,
            training packs groups into one row.
        tuning: Which parts learn, in full or by adapters.
        min_pixels: A smaller image is scaled up to this area; null takes the checkpoint's.
        max_pixels: A larger image is scaled down to this area; null takes the checkpoint's. The area decides how many
            tokens an image becomes: see ``image_tokens``.
        max_context_tokens: Most tokens of a sequence, images expanded; null takes what the model was made for. An
            engine keeps room for one such sequence at least.
        gradient_checkpointing: Whether activations are computed again in the backward pass, layer by layer: about a
            third more time, a fraction of the memory. It needs packed rows.

    Raises:
        ValueError: No context, or limits that contradict each other.

    Attributes:
        name: Which policy this is; set by the owner.
        version: Number of updates made to the weights; (name, version) tells an engine what to load.
        banned_token_ids: Control tokens that are never sampled.
        auto_model: The class of transformers that makes the model.
    """

    auto_model: ClassVar[Any] = AutoModelForImageTextToText
    banned_token_ids: Tensor
    hidden_states = staticmethod(target_hidden_states)

    def __init__(
        self,
        path: str,
        revision: str | None = None,
        attn_implementation: str | None = None,
        tuning: Tuning = Tuning(),  # noqa: B008 (frozen)
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        max_context_tokens: int | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if max_context_tokens is not None and max_context_tokens < 1:
            raise ValueError(f"max_context_tokens: {max_context_tokens} must be at least 1, or null")
        given = [pixels for pixels in (min_pixels, max_pixels) if pixels is not None]
        if any(pixels < 1 for pixels in given) or given != sorted(given):
            raise ValueError(f"min_pixels={min_pixels}, max_pixels={max_pixels}: need 1 <= min_pixels <= max_pixels")
        self.path = find_model(path)
        self.revision = revision
        self.attn_implementation = attn_implementation
        self.tuning = tuning
        self.min_pixels = min_pixels
        self.max_pixels = max_pixels
        self.max_context_tokens = max_context_tokens
        self.gradient_checkpointing = gradient_checkpointing
        self.name = "policy"
        self.version = 0
        self.model = None
        self.processor: Any = None

    def load(self, shares_with: VLM | None = None, processor_path: str | None = None, *, weights: bool = True) -> None:
        """Load weights and processor, once.

        Args:
            shares_with: A policy whose model an adapter of this one can be on; whole models ignore it.
            processor_path: Directory of another processor than the checkpoint's.
            weights: Whether they are read; without them there are no adapters either, and the policy can write and
                measure prompts and no more.

        Raises:
            FileNotFoundError: ``path`` is a directory without a model or without a processor.
            ValueError: An image of ``max_pixels`` has more tokens than the context, or an adapter no layer.
        """
        if self.model is not None:
            return
        self.processor = self.read_processor(processor_path or self.path)
        lora = self.tuning.lora if weights else None
        if lora is None or shares_with is None:
            self.model = self._load_model() if weights else self._shape_model()
            score_from_last_layer(self.text_model)
        else:
            self.model, self.adapters = shares_with.model, shares_with.adapters
        if lora is None:
            for module in (module for part in self.tuning.freeze for module in self.parts()[part]):
                module.requires_grad_(False)
        else:
            self.adapters = self.adapters or Adapters(self.model, lora, self.adapted_layers(self.tuning))
            self.adapters.add(self.name)
            self.adapter = self.name
        if self.gradient_checkpointing:
            again = {} if self.adapters is None else {"context_fn": self.adapters.checkpoint_contexts}
            self.model.gradient_checkpointing_enable({"use_reentrant": False} | again)
            self.model.disable_input_require_grads()  # gradients would run through a frozen vision tower
        marks, _ = _control_ids(self.tokenizer)
        ids = torch.tensor([i for i in self._banned_token_ids() if i not in marks], dtype=torch.long)
        self.register_buffer("banned_token_ids", ids, persistent=False)
        self.limit_pixels(self.min_pixels, self.max_pixels)
        if self.most_image_tokens >= self.context_tokens:
            raise ValueError(
                f"max_pixels: an image may take {self.most_image_tokens} tokens, and the context has "
                f"{self.context_tokens}; give a smaller max_pixels (null is the checkpoint's)"
            )
        if self.takes_images:
            logger.info("%s: at most %d tokens per image", self.path, self.most_image_tokens)

    def read_processor(self, path: str) -> Any:
        """Tokenizer and image processor of a directory, or of a name on the Hub."""
        return load_processor(path, self.revision)

    def _load_model(self) -> Any:
        path, named = gguf_file(self.path, weights=True)
        return self.auto_model.from_pretrained(
            path,
            revision=self.revision,
            dtype=torch.float32,
            attn_implementation=self.attn_implementation or GROUPED_SDPA,
            use_safetensors=True,
            trust_remote_code=False,
            **named,
        ).train()

    def _shape_model(self) -> Any:
        """The model without memory behind it."""
        path, named = gguf_file(self.path)
        config = AutoConfig.from_pretrained(path, revision=self.revision, trust_remote_code=False, **named)
        with torch.device("meta"):
            return self.auto_model.from_config(config)

    def base(self) -> VLM:
        """A frozen copy with the weights of the checkpoint that this policy started from; of an adapter, its model."""
        if self.adapters is not None:
            return self.view(None)
        if self.sharded:
            return in_turn(lambda: self._with_shards(self._load_model()))
        fresh = self.unloaded()
        fresh.model = self._load_model().to(self.device)
        score_from_last_layer(fresh.text_model)
        return fresh.requires_grad_(False).eval()

    @torch.no_grad()
    def start_again(self) -> None:
        """Give what is trained the values that it began the run with; the version moves on, so that engines load it."""
        if self.adapters is not None:
            self.adapters.reset(self.name)
        else:
            state = self.base().state_dict() if self.sharded else self._load_model().state_dict(prefix="model.")
            self.load_state_dict(state)
        self.version += 1

    @property
    def head_weight(self) -> Tensor:
        """(V, H) weight of the language-model head."""
        return self.model.get_output_embeddings().weight

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Ids that end a completion."""
        ids = self.model.generation_config.eos_token_id
        ids = self.tokenizer.eos_token_id if ids is None else ids
        return tuple(ids) if isinstance(ids, (list, tuple)) else (ids,)

    def _banned_token_ids(self) -> list[int]:
        """Control tokens a policy must never sample: all special ones but the stop tokens."""
        images = {token for token in (self.image_token_id, self.feature_token_id) if token >= 0}
        return sorted({*self.tokenizer.all_special_ids, *images} - set(self.stop_token_ids))

    def encode(self, key: str, template: Template, images: Image | Sequence[Image] | None, **fields: str) -> Prompt:
        """Make a prompt of an image, several in their order, or none, and a template's text.

        Raises:
            ValueError: There are images, and the model takes none; or the chat template does not take the template.
        """
        images = () if images is None else (images,) if isinstance(images, Image) else tuple(images)
        if images and not self.takes_images:
            raise ValueError(f"prompt {key!r}: {self.path!r} is a language model and takes no images; give a VLM")
        ids = encode_prompt(self.tokenizer, template, images=len(images), **fields)
        end = self.tokenizer.decode(list(ids[-8:])).rstrip()  # eight at most where the mark is no token of its own
        return Prompt(key, ids, images, "<think>" if end.endswith("<think>") else "")

    def encode_any(self, key: str, template: Template) -> Prompt:
        """Make some prompt of a template, about a small image where the model takes any, to see that it can be made."""
        image = PIL.Image.new("RGB", (56, 56)) if self.takes_images else None
        return self.encode(key, template, image, **dict.fromkeys(template.fields(), "?"))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of a completion, control tokens left out, but not the marks of a thought."""
        marks, control = _control_ids(self.tokenizer)
        if marks.isdisjoint(token_ids):
            return self.tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return self.tokenizer.decode([t for t in token_ids if t not in control], clean_up_tokenization_spaces=False)

    def fits(self, prompt: Prompt, max_new_tokens: int) -> bool:
        """Whether the prompt and a completion of full length fit the context."""
        return self.prompt_tokens(prompt) + max_new_tokens <= self.context_tokens

    def why_too_long(self, prompt: Prompt, max_new_tokens: int) -> str | None:
        """Why the prompt and a completion of full length do not fit the context; None where they do."""
        if self.fits(prompt, max_new_tokens):
            return None
        return (
            f"a prompt of {self.prompt_tokens(prompt)} tokens and an answer of {max_new_tokens} "
            f"do not fit the context of {self.context_tokens}"
        )

    def collate(self, prompts: Sequence[Prompt]) -> PromptBatch:
        """Expand placeholders and pad on the left, see ``visplay.modules.policy.collation.collate``."""
        return collate(self, prompts)

    def prefill(self, prompts: Sequence[Prompt]) -> tuple[Tensor, KVCache]:
        """Read N prompts, what several about one image begin with once, see ``visplay.modules.policy.prefill``.

        Returns:
            The hidden state that predicts the first completion token, (N, H), and the cache to extend.
        """
        return prefill(self, prompts)

    def extend(self, cache: KVCache, token_ids: Tensor) -> tuple[Tensor, KVCache]:
        """Read T more tokens per sequence.

        Args:
            cache: Of B sequences; it is consumed, use the returned one from here on.
            token_ids: (B, T) ids.

        Returns:
            Hidden states (B, T, H), each predicting the token after its own, and the longer cache.
        """
        return extend(self, cache, token_ids)

    def logits(self, hidden: Tensor, temperature: float = 1.0) -> Tensor:
        """Next-token logits (B, V) in float32 as the policy samples them: tempered, control tokens excluded."""
        logits = nn.functional.linear(hidden, self.head_weight).float()
        logits = logits / temperature if temperature > 0 else logits
        return logits.index_fill(-1, self.banned_token_ids, torch.finfo(torch.float32).min)

    def logps(
        self,
        prompts: Sequence[Prompt],
        token_ids: Tensor,
        mask: Tensor,
        temperature: float = 1.0,
        *,
        entropy_gradient: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Score G completions of each of N prompts, teacher-forced, as they were sampled.

        Args:
            prompts: N prompts.
            token_ids: (N, G, T) completion ids, padded on the right.
            mask: (N, G, T) bool, False at padding.
            temperature: Temperature the completions were sampled with.
            entropy_gradient: Whether the entropies carry a gradient.

        Returns:
            Log-probabilities of the tokens and entropies of their distributions, both (N, G, T) in nats; 0 at padding.

        Raises:
            ValueError: ``gradient_checkpointing`` where groups are not packed into one row; see ``why_not_packed``.
        """
        scores = token_logps(
            self.hidden_states(self, prompts, token_ids, mask),
            self.head_weight,
            token_ids[mask],
            temperature=temperature,
            banned=self.banned_token_ids,
            entropy_gradient=entropy_gradient,
        )
        logps, entropies = (s.new_zeros(mask.shape).index_put((mask,), s) for s in scores)
        return logps, entropies

    def fingerprint(self) -> str:
        """Hash of all weights: two policies that differ have, but for chance, different ones.

        All ranks take part where the weights are sharded.
        """
        found = hashlib.sha256()
        for name, weight in self.named_weights():
            found.update(f"{name}:{torch.hash_tensor(whole(weight.detach())).view(torch.int64).item()}\n".encode())
        return found.hexdigest()

    def save(self, directory: str | Path, form: ExportFormat = ExportFormat("float32")) -> None:  # noqa: B008 (frozen)
        """Write a Hugging Face directory, see ``visplay.modules.policy.weights.saving.write_policy``."""
        write_policy(self, directory, form)


@lru_cache(maxsize=8)
def _control_ids(tokenizer: Any) -> tuple[frozenset[int], frozenset[int]]:
    """Of a tokenizer's control tokens, the marks of a thought, which are text here, and the others."""
    special = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    marks = frozenset(index for index, token in special.items() if token in ("<think>", "</think>"))
    return marks, frozenset(special) - marks
