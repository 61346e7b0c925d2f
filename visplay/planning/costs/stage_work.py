"""What one device has to do in a stage, from how many completions of which lengths: sampling, learning, loading."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from visplay.planning.activations import FLOAT
from visplay.planning.costs.cost_model import Work
from visplay.planning.costs.operations import Reading, causal_pairs, forward_operations, training_operations
from visplay.planning.memory import Shape, Training, trained_weights

_UPDATE_BYTES = 10 * FLOAT
"""Bytes that an update moves for each trained weight: AdamW reads the weight, its gradient and two moments and writes
three of them, and clipping reads the gradient, for its norm, and reads and writes it."""
_MICRO_BATCH_BYTES = 5 * FLOAT
"""And for each micro-batch: the weight is read forward and back, its gradient written, and added to what there is."""


@dataclass(frozen=True)
class Sampled:
    """Completions that a device draws.

    Args:
        images: Images, each of which is read once.
        patches: Of an image.
        prompts: Prompts, all about one of the images.
        shared_tokens: Tokens that the prompts about one image begin with, the image's among them; read once.
        own_tokens: Further tokens of each prompt.
        samples: Completions of each prompt.
        tokens: Tokens of a completion.
        slots: Most completions decoded at once.
    """

    images: float
    patches: int
    prompts: float
    shared_tokens: float
    own_tokens: float
    samples: int
    tokens: float
    slots: int


@dataclass(frozen=True)
class EngineMemory:
    """What an engine reads again and again.

    Args:
        weight_bytes: Of a weight.
        cached_bytes: Of a token's keys and values in all layers.
        block_tokens: Tokens of a block of vLLM's cache: prompts and completions share whole blocks only, and each
            completion reads the rest of its prompt; 1 where they share every token.
    """

    weight_bytes: int
    cached_bytes: int
    block_tokens: int = 1

    def shared(self, tokens: float) -> float:
        """Tokens of whole blocks; vLLM leaves at least one token to read."""
        return tokens if self.block_tokens == 1 else (tokens - 1) // self.block_tokens * self.block_tokens


@dataclass(frozen=True)
class Learned:
    """What a device learns from in one step.

    Args:
        prompts: Prompts, each about an image of its own.
        patches: Of an image.
        prompt_tokens: Tokens of a prompt, its image's among them.
        group: G, completions of each.
        tokens: Tokens of a completion.
        updates: Steps of the optimizer; the prompts are spread over them.
        scores: Policies that score all completions before: the reference, and the policy itself where several updates
            follow.
        tokens_per_micro_batch: Most tokens of a micro-batch.
    """

    prompts: float
    patches: int
    prompt_tokens: float
    group: int
    tokens: float
    updates: int
    scores: int
    tokens_per_micro_batch: int

    @property
    def parts(self) -> int:
        """Micro-batches that a group is cut into, each of which reads the prompt again; see ``micro_batches``."""
        if self.prompt_tokens + self.group * self.tokens <= self.tokens_per_micro_batch:
            return 1
        return ceil(self.group / max(1, (self.tokens_per_micro_batch - self.prompt_tokens) // self.tokens))

    def micro_batches(self, prompts: float) -> int:
        """Micro-batches of so many prompts; 1 at least, as a rank without any has to take part."""
        if self.parts > 1:
            return max(1, ceil(prompts)) * self.parts
        most = self.tokens_per_micro_batch // (self.prompt_tokens + self.group * self.tokens)
        return max(1, ceil(prompts / most))

    @property
    def reading(self) -> Reading:
        """One pass over all completions, the prompt of each part once; the last token of a completion is not read."""
        prompts, completions = self.prompts * self.parts, self.prompts * self.group
        return Reading(
            tokens=prompts * self.prompt_tokens + completions * (self.tokens - 1),
            pairs=prompts * causal_pairs(self.prompt_tokens)
            + completions * causal_pairs(self.tokens - 1, before=self.prompt_tokens),
            scored=completions * self.tokens,
            images=prompts,
            patches=self.patches,
        )


def sampling_work(shape: Shape, sampled: Sampled, engine: EngineMemory) -> Work:
    """Prompts are read, and completions decoded, as many at once as there are slots.

    Each decoded token of a batch reads all weights of the language model once, and each completion the keys and values
    of what is before it: the roofline of decoding (Pope et al., 2022, arXiv 2211.05102, section 3).
    """
    completions = sampled.prompts * sampled.samples
    if not completions:
        return Work()
    prompt = sampled.shared_tokens + sampled.own_tokens
    image, common = engine.shared(sampled.shared_tokens), engine.shared(prompt)
    prefill = Reading(
        tokens=sampled.images * image + sampled.prompts * (common - image) + completions * (prompt - common),
        pairs=sampled.images * causal_pairs(image)
        + sampled.prompts * causal_pairs(common - image, before=image)
        + completions * causal_pairs(prompt - common, before=common),
        scored=sampled.prompts,
        images=sampled.images,
        patches=sampled.patches,
    )
    before = completions * causal_pairs(sampled.tokens, before=prompt)
    decode = Reading(tokens=completions * sampled.tokens, pairs=before, scored=completions * sampled.tokens)
    weights = shape.text_layers * shape.text.weights + shape.head
    rounds = max(1.0, completions / sampled.slots)
    passes = rounds * sampled.tokens
    return Work(
        forward_operations(shape, prefill) + forward_operations(shape, decode),
        passes * engine.weight_bytes * weights + before * engine.cached_bytes,
        passes * shape.text_layers + rounds * (shape.text_layers + shape.vision_layers),
    )


def update_work(shape: Shape, learned: Learned, training: Training, shards: int = 1) -> Work:
    """Scores before the updates, forward and backward passes of all micro-batches, and the optimizer's steps.

    Args:
        shape: Of the policy.
        learned: From what.
        training: How.
        shards: Ranks over which the optimizer's steps are cut.
    """
    layers, trained = shape.text_layers + shape.vision_layers, trained_weights(shape, training)
    micro = learned.updates * learned.micro_batches(learned.prompts / learned.updates)
    scoring = learned.scores * learned.micro_batches(learned.prompts)
    return Work(
        training_operations(shape, learned.reading, training)
        + learned.scores * forward_operations(shape, learned.reading),
        trained * (learned.updates * _UPDATE_BYTES / shards + micro * _MICRO_BATCH_BYTES),
        layers * (micro * (3 + training.checkpointed) + scoring),
    )


def load_work(shape: Shape, weight_bytes: int) -> Work:
    """Weights are read in float32, cast to the engine's precision and stored there, tensor by tensor."""
    return Work(moved_bytes=shape.weights * (FLOAT + 2 * weight_bytes), layers=shape.text_layers + shape.vision_layers)


def divided(sampled: Sampled, engines: int) -> Sampled:
    """The largest part of what several engines draw together: ranks are dealt whole images, or whole prompts."""
    images, each = ceil(sampled.images / engines), sampled.prompts / sampled.images
    return replace(sampled, images=images, prompts=images * each)
