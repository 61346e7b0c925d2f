"""The base VLM wrapper: a policy that prefills prompts, extends them and scores completions.

Sampling goes through two calls, ``prefill`` and ``extend``: a prompt and its image are computed once per group, and
its G completions continue from the shared key-value cache. Training packs whole groups into one row, see
``visplay.modules.policy.packing``, or goes through the same calls where that cannot be (gradients flow through the
cache). What a model family needs beyond this lives in a subclass, one family a file.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn

from visplay.functional.logps import token_logps
from visplay.modules.policy.adaptable import Adaptable
from visplay.modules.policy.attention import GROUPED_SDPA
from visplay.modules.policy.collation import PromptBatch, collate, widen
from visplay.modules.policy.hidden_states import predictors
from visplay.modules.policy.kv_cache import Context
from visplay.modules.policy.loading import check_loading, load_model, load_processor
from visplay.modules.policy.prefill import prefill
from visplay.modules.policy.saving import ExportFormat, write_policy
from visplay.modules.policy.tuning import Tuning
from visplay.modules.policy.whole_weights import whole_weights
from visplay.prompts import Template, encode_prompt
from visplay.types import Prompt

logger = logging.getLogger(__name__)


class VLM(Adaptable):
    """A vision-language model as a policy.

    The constructor only stores; ``load`` reads the weights. Weights are kept in float32 (an update of 1e-6 would be
    lost in bfloat16); computation in bfloat16 is the trainer's ``precision: bf16-mixed``.

    Args:
        path: Directory or Hub name of a Hugging Face checkpoint with its processor.
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

    Attributes:
        name: Which policy this is; set by the owner.
        version: Number of updates made to the weights; (name, version) tells an engine what to hold.
        banned_token_ids: Control tokens that are never sampled.
    """

    banned_token_ids: Tensor

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
        check_loading(min_pixels, max_pixels, max_context_tokens)
        self.path = path
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

    def load(self, beside: VLM | None = None, processor_path: str | None = None) -> None:
        """Load weights and processor, once.

        Args:
            beside: A policy whose model an adapter of this one can be on; where policies are whole models, none is.
            processor_path: Directory of another processor than the checkpoint's.

        Raises:
            FileNotFoundError: ``path`` is a directory without a model or without a processor.
            ValueError: An image of ``max_pixels`` has more tokens than the context, or an adapter no layer.
        """
        if self.model is not None:
            return
        beside = beside if self.tuning.lora else None
        self.processor = load_processor(processor_path or self.path, self.revision)
        self.model = self._load_model() if beside is None else beside.model
        self.set_up_tuning(self.name, beside)
        if self.gradient_checkpointing:
            again = {} if self.adapters is None else {"context_fn": self.adapters.checkpoint_contexts}
            self.model.gradient_checkpointing_enable({"use_reentrant": False} | again)
            self.model.disable_input_require_grads()  # gradients would run through a frozen vision tower
        ids = torch.tensor(self._banned_token_ids(), dtype=torch.long)
        self.register_buffer("banned_token_ids", ids, persistent=False)
        self.limit_pixels(self.min_pixels, self.max_pixels)
        if self.most_image_tokens >= self.context_tokens:
            raise ValueError(
                f"max_pixels: an image may take {self.most_image_tokens} tokens, and the context has "
                f"{self.context_tokens}; give a smaller max_pixels (null is the checkpoint's)"
            )
        logger.info("%s: at most %d tokens per image", self.path, self.most_image_tokens)

    def _load_model(self) -> Any:
        return load_model(self.path, self.revision, self.attn_implementation or GROUPED_SDPA)

    def frozen_copy(self) -> VLM:
        """A frozen copy of the policy as it is now; of an adapter, on the same model."""
        if self.adapters is not None:
            return self.snapshot()
        return copy.deepcopy(self).requires_grad_(False).eval()

    def base(self) -> VLM:
        """A frozen copy with the weights of the checkpoint that this policy started from; of an adapter, its model."""
        if self.adapters is not None:
            return self.view(None)
        fresh = self.unloaded()
        fresh.model = self._load_model().to(self.device)
        return fresh.requires_grad_(False).eval()

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def context_tokens(self) -> int:
        """Most tokens of a sequence, images expanded."""
        return min(self.model_context_tokens, self.max_context_tokens or self.model_context_tokens)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

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
        return sorted({*self.tokenizer.all_special_ids, self.image_token_id} - set(self.stop_token_ids))

    def encode(self, key: str, template: Template, images: Image | Sequence[Image] | None, **fields: str) -> Prompt:
        """Make a prompt of an image, several in their order, or none, and a template's text."""
        images = () if images is None else (images,) if isinstance(images, Image) else tuple(images)
        return Prompt(key, encode_prompt(self.tokenizer, template, images=len(images), **fields), images)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of a completion, control tokens left out."""
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def prompt_tokens(self, prompt: Prompt) -> int:
        """P: tokens of a prompt with its images expanded."""
        return len(prompt.token_ids) + sum(self.image_tokens(image) - 1 for image in prompt.images)

    def fits(self, prompt: Prompt, max_new_tokens: int) -> bool:
        """Whether the prompt and a completion of full length fit the context."""
        return self.prompt_tokens(prompt) + max_new_tokens <= self.context_tokens

    def collate(self, prompts: Sequence[Prompt]) -> PromptBatch:
        """Expand placeholders and pad on the left, see ``visplay.modules.policy.collation.collate``."""
        return collate(self, prompts)

    def prefill(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Context]:
        """Read N prompts, what several about one image begin with once, see ``visplay.modules.policy.prefill``.

        Returns:
            The hidden state that predicts the first completion token, (N, H), and the context to extend.
        """
        return prefill(self, prompts)

    def embed(self, input_ids: Tensor, batch: PromptBatch) -> Tensor:
        """Embed the ids of a batch of prompts, (N, P) or without padding (L,), images in their places.

        Returns:
            (…, H), or wider where the family's features are; see ``widen``.
        """
        embeddings = self.model.get_input_embeddings()(input_ids)
        if batch.pixels is None:
            return embeddings
        features = self.image_features(batch.pixels)
        rows = torch.cat([features[index] for index in batch.image_index]).to(embeddings.dtype)
        embeddings = widen(embeddings, rows.shape[-1])
        where = input_ids == self.image_token_id
        if len(rows) != int(where.sum()):
            raise RuntimeError(f"{type(self).__name__}: {int(where.sum())} image tokens for {len(rows)} features")
        return embeddings.masked_scatter(where.unsqueeze(-1), rows)

    def extend(self, context: Context, token_ids: Tensor) -> tuple[Tensor, Context]:
        """Read T more tokens per sequence.

        Args:
            context: B sequences; its cache is consumed, use the returned context from here on.
            token_ids: (B, T) ids.

        Returns:
            Hidden states (B, T, H), each predicting the token after its own, and the longer context.
        """
        steps = torch.arange(token_ids.shape[1], device=token_ids.device)
        positions = self.text_positions(context.next_position[:, None] + steps)
        mask = torch.cat([context.mask, torch.ones_like(token_ids, dtype=torch.bool)], 1)
        embeddings = self.model.get_input_embeddings()(token_ids)
        hidden = self.language_model(embeddings, mask, positions, context.cache)
        return hidden, Context(context.cache, mask, context.next_position + token_ids.shape[1])

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
            self._predictors(prompts, token_ids, mask),
            self.head_weight,
            token_ids[mask],
            temperature=temperature,
            banned=self.banned_token_ids,
            entropy_gradient=entropy_gradient,
        )
        logps, entropies = (s.new_zeros(mask.shape).index_put((mask,), s) for s in scores)
        return logps, entropies

    def _predictors(self, prompts: Sequence[Prompt], token_ids: Tensor, mask: Tensor) -> Tensor:
        """Hidden states (R, H) that predict the R tokens under the mask (N, G, T), in its order."""
        return predictors(self, prompts, token_ids, mask)

    def weights(self, device: torch.device | None = None) -> Iterator[tuple[str, Tensor]]:
        """Every weight, whole and detached, under the name that engines take; see ``whole_weights``.

        Args:
            device: Where each is given; None leaves it where it lies.
        """
        return ((self.released_name(name), weight.to(device=device)) for name, weight in whole_weights(self.model))

    def fingerprint(self) -> str:
        """Hash of all weights: two policies that differ have, but for chance, different ones."""
        found = hashlib.sha256()
        for name, weight in self.named_weights():
            found.update(f"{name}:{torch.hash_tensor(weight.detach()).view(torch.int64).item()}\n".encode())
        return found.hexdigest()

    def save(self, directory: str | Path, form: ExportFormat = ExportFormat("float32")) -> None:  # noqa: B008 (frozen)
        """Write a Hugging Face directory, see ``visplay.modules.policy.saving.write_policy``."""
        write_policy(self, directory, form)
