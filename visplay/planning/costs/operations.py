"""Floating-point operations of passes through a model, by formula.

A product of (m, k) and (k, n) counts 2 m k n, and attention its two products over the pairs of tokens that see each
other. The backward pass makes as many operations again for the gradient of the inputs, and as many for the gradient of
the weights (Kaplan et al., 2020, arXiv 2001.08361, section 2.1). Norms, softmax and rotary positions do not count.
"""

from __future__ import annotations

from dataclasses import dataclass

from visplay.planning.activations import Block
from visplay.planning.memory import Shape, Training


@dataclass(frozen=True)
class Reading:
    """What passes go through in all.

    Args:
        tokens: Tokens that the language model reads, those of images included.
        pairs: Pairs of tokens that attend to each other in a layer of it.
        scored: Hidden states that become logits.
        images: Images that the vision tower reads.
        patches: Patches of each.
    """

    tokens: float
    pairs: float
    scored: float
    images: float = 0.0
    patches: int = 0


def causal_pairs(tokens: float, before: float = 0.0) -> float:
    """Pairs of ``tokens`` that see each other causally, and all of ``before``.

    Example:
        >>> causal_pairs(3, before=10)
        36.0
    """
    return tokens * before + tokens * (tokens + 1) / 2


def forward_operations(shape: Shape, reading: Reading) -> float:
    """Operations of forward passes."""
    return sum(products + attention for products, attention in _parts(shape, reading).values())


def training_operations(shape: Shape, reading: Reading, training: Training) -> float:
    """Operations of forward and backward passes.

    What lies behind nothing that learns has no backward pass; weights that do not learn have none of their own, and
    what an adapter's products take, about a hundredth, is counted like that of their base. Checkpointed layers go
    forward twice, and so do the chunks of the head; see ``token_logps``.
    """
    frozen = training.frozen if not shape.adapters else frozenset(shape.parts)
    learns = {part: part not in frozen for part in ("vision_tower", "language_model")}
    crossed = {"vision_tower": learns["vision_tower"] or "vision_tower" in shape.adapters, "language_model": True}
    total = 0.0
    for part, (products, attention) in _parts(shape, reading).items():
        of = "language_model" if part == "head" else part
        again = crossed[of] and (part == "head" or training.checkpointed)
        total += products * (1 + crossed[of] + learns[of] + again) + attention * (1 + 2 * crossed[of] + again)
    return total


def _parts(shape: Shape, reading: Reading) -> dict[str, tuple[float, float]]:
    """Operations of a forward pass in products with weights, and in attention, by part."""
    vision, merged = shape.vision, shape.patches_per_token * shape.vision.width
    embedding = shape.patch_inputs * vision.width
    merger = shape.mergers * merged * (merged + shape.text.width) / shape.patches_per_token
    patches = reading.images * reading.patches
    full = shape.vision_layers if not shape.window_patches else shape.full_layers
    window = min(shape.window_patches, reading.patches)
    seen = full * reading.patches + (shape.vision_layers - full) * window
    text = shape.text_layers
    return {
        "vision_tower": (
            2 * patches * (shape.vision_layers * _matrix_weights(vision) + embedding + merger),
            4 * patches * seen * vision.queries,
        ),
        "language_model": (
            2 * reading.tokens * text * _matrix_weights(shape.text),
            4 * reading.pairs * text * shape.text.queries,
        ),
        "head": (2 * reading.scored * shape.head, 0.0),
    }


def _matrix_weights(block: Block) -> int:
    """Weights of a layer's matrices: queries, keys, values, output, and the MLP's."""
    return 2 * block.width * (block.queries + block.keys) + (block.mlp_inputs + 1) * block.width * block.inner
