"""Which tokens of a language model see which: what packed rows, padded rows and shared prefixes must honour."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from torch import Tensor

_TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids")
"""What transformers calls the argument by which a model learns where images are."""


@dataclass(frozen=True)
class AttentionContract:
    """Which tokens a token attends to, beside itself and those before it.

    Args:
        window: Tokens that a token sees in some layers or in all, itself the last of them; None where it sees all.
        images_both_ways: Whether the tokens of an image also see the later ones of the same image.
        other_layers: Kinds of layers that are neither causal nor windowed, as transformers calls them.
    """

    window: int | None = None
    images_both_ways: bool = False
    other_layers: tuple[str, ...] = ()

    def why_not_causal(self, context_tokens: int) -> str | None:
        """What a sequence of so many tokens attends to otherwise than plainly causally; None where nothing is.

        Example:
            >>> AttentionContract(window=512).why_not_causal(1024)
            'layers attend within windows of 512 tokens'
            >>> AttentionContract(window=4096).why_not_causal(1024)
        """
        if self.images_both_ways:
            return "the tokens of an image attend both ways"
        if self.window is not None and self.window < context_tokens:
            return f"layers attend within windows of {self.window} tokens"
        return f"there are layers of {' and '.join(self.other_layers)}" if self.other_layers else None


def read_contract(model: Any, text_config: Any) -> AttentionContract:
    """What a model's configuration, and the way it makes its masks, say of its attention.

    Args:
        model: The whole model.
        text_config: Configuration of its language model. Windows are a matter of ``sliding_window``; where there are
            ``layer_types``, only of the layers they name.
    """
    kinds = set(getattr(text_config, "layer_types", None) or ())
    windowed = "sliding_attention" in kinds if kinds else getattr(text_config, "use_sliding_window", True)
    window = getattr(text_config, "sliding_window", None) if windowed else None
    others = kinds - {"full_attention"} - ({"sliding_attention"} if window is not None else set())
    if not kinds and getattr(text_config, "attention_chunk_size", None) is not None:
        others = {"chunked_attention"}
    return AttentionContract(
        window=window,
        images_both_ways=_token_types_argument(model) is not None,
        other_layers=tuple(sorted(others)),
    )


def model_masks(
    model: Any, text_config: Any, embeddings: Tensor, mask: Tensor, positions: Tensor, cache: Any, token_types: Tensor
) -> Any:
    """The masks that a model makes for a prompt when it is told where images are, for each kind of its layers.

    Args:
        model: The whole model.
        text_config: Configuration of its language model.
        embeddings: (B, T, H) of the prompt.
        mask: (B, T) bool, False at padding.
        positions: Its rotary positions.
        cache: An empty one.
        token_types: (B, T), see ``Family.token_types``.

    Raises:
        ValueError: The model takes no types of tokens.
    """
    argument = _token_types_argument(model)
    if argument is None:
        raise ValueError(
            f"attention: images_both_ways is declared, and {type(model).__name__} takes neither "
            f"{' nor '.join(_TOKEN_TYPES)} where it makes its masks; override language_model"
        )
    return model.create_masks_for_generate(
        config=text_config,
        inputs_embeds=embeddings,
        attention_mask=mask.long(),
        past_key_values=cache,
        position_ids=positions,
        is_first_iteration=True,
        **{argument: token_types.masked_fill(~mask, 0)},
    )


def _token_types_argument(model: Any) -> str | None:
    """How a model that makes masks of its own is told where images are; None where it makes none, or is not told."""
    make = getattr(type(model), "create_masks_for_generate", None)
    return next((name for name in _TOKEN_TYPES if make and name in inspect.signature(make).parameters), None)
