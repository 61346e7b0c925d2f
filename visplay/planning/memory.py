"""The memory of an update: what lies there all the time, and the course of one micro-batch, from which the peak comes.

A micro-batch goes forward through the vision tower and the language model, which leaves its activations; the backward
pass lets them go layer by layer, while gradients come up. The peak is where the sum is highest.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from visplay.planning.activations import (
    CHUNK_ROWS,
    FLOAT,
    Block,
    Precision,
    first_input,
    head_working,
    matrix_gradient,
    merger,
    rotary,
    text_layer,
    vision_layer,
    way_back,
)


@dataclass(frozen=True)
class Shape:
    """A vision-language model by its sizes.

    Args:
        text: A layer of the language model.
        text_layers: Their number.
        vision: A layer of the vision tower.
        vision_layers: Their number.
        vocabulary: V, tokens.
        tied: Whether embedding and head are one matrix.
        parts: Number of weights by part: "vision_tower", "projector", "language_model"; a tied one counts once.
        patches_per_token: Patches of an image that become one token.
        patch_inputs: Values of a patch.
        mergers: Their number: one, and those whose features enter further layers of the language model.
        adapters: Number of an adapter's weights by part; empty where the weights themselves learn.
    """

    text: Block
    text_layers: int
    vision: Block
    vision_layers: int
    vocabulary: int
    tied: bool
    parts: dict[str, int]
    patches_per_token: int = 4
    patch_inputs: int = 1176
    mergers: int = 1
    adapters: dict[str, int] = field(default_factory=dict)

    @property
    def weights(self) -> int:
        """Number of all weights."""
        return sum(self.parts.values())

    @property
    def adapter_weights(self) -> int:
        """Number of an adapter's weights; 0 where the weights themselves learn."""
        return sum(self.adapters.values())

    @property
    def head(self) -> int:
        """Number of weights of the head."""
        return self.vocabulary * self.text.width


@dataclass(frozen=True)
class Micro:
    """A micro-batch as a packed row.

    Args:
        tokens: L, tokens of the row: each prompt once, images expanded, and the answers.
        rows: R, tokens of answers, each of which is scored.
        patches: Patches of all its images.
    """

    tokens: int
    rows: int
    patches: int


@dataclass(frozen=True)
class Training:
    """How a policy is trained, as far as memory goes.

    Args:
        precision: What is computed in.
        checkpointed: Whether only the input of each layer is kept, and the rest computed again.
        accumulated: Whether gradients of earlier micro-batches are there already.
        frozen: Parts that do not learn.
        entropy: Whether the entropies of the loss carry a gradient.
    """

    precision: Precision = Precision()
    checkpointed: bool = False
    accumulated: bool = True
    frozen: frozenset[str] = field(default_factory=frozenset)
    entropy: bool = False

    def learns(self, part: str) -> bool:
        """Whether a part learns."""
        return part not in self.frozen


@dataclass(frozen=True)
class Activations:
    """Bytes of a micro-batch beside weights and gradients.

    Args:
        kept: What the forward pass leaves for the backward pass.
        logits: What log-probabilities need beyond, a chunk of logits and the head's gradient among it.
        peak: Highest sum in its course; where gradients are not there before, those that came up until then count.
    """

    kept: int
    logits: int
    peak: int


def trained_weights(shape: Shape, training: Training) -> int:
    """Number of weights that learn: of an adapter, or of the parts that are not frozen."""
    if shape.adapters:
        return shape.adapter_weights
    return sum(count for part, count in shape.parts.items() if training.learns(part))


def activations(shape: Shape, micro: Micro, training: Training) -> Activations:
    """Follow one micro-batch through an update.

    Autograd goes back in the order in which the forward pass made its results: head, language model, embedding of the
    answers, vision tower, embedding of the prompts. The gradient of the embedding is as large as the whole matrix, and
    its uses are summed before they are added to what there is.
    """
    return _Course(shape, micro, training).follow()


def scoring(shape: Shape, micro: Micro, precision: Precision) -> int:
    """Bytes that log-probabilities of a micro-batch need without gradients: one layer's states, and a chunk of logits.

    An estimate from above: a layer's states go one after another and not together.
    """
    text = text_layer(shape.text, micro.tokens, precision, trained=False) + 2 * FLOAT * micro.tokens * shape.text.width
    vision = vision_layer(shape.vision, micro.patches, precision, trained=False)
    return max(text, vision, head_working(micro.rows, shape.text.width, shape.vocabulary, precision, trained=False))


class _Course:
    """The sum of bytes as it goes up and down."""

    def __init__(self, shape: Shape, micro: Micro, training: Training) -> None:
        self.shape, self.micro, self.training, self.precision = shape, micro, training, training.precision
        self.text_learns, self.merger_learns, self.vision_learns = map(
            self._learns, ("language_model", "projector", "vision_tower")
        )
        self.vision_crossed = self.vision_learns or "vision_tower" in shape.adapters
        self.merger_crossed = self.vision_crossed or self.merger_learns or "projector" in shape.adapters
        self.now = self.peak = 0

    def _learns(self, part: str) -> bool:
        """Whether a part's own weights learn."""
        return not self.shape.adapters and self.training.learns(part)

    def follow(self) -> Activations:
        shape, micro, p = self.shape, self.micro, self.precision
        layer = text_layer(shape.text, micro.tokens, p, self.text_learns)
        self._add(self._vision_kept())
        self._add(self._layers_kept(shape.text, shape.text_layers, layer, self._text_input))
        if not self.text_learns:
            self._add(self._embedded(shape.text, micro.tokens, self.merger_crossed))
        if self.training.checkpointed:  # the first input is a part of what all mergers gave
            self._add((shape.mergers - 1) * self._text_input)
        last = (2 if self.text_learns else 1) * self._text_input + rotary(shape.text, micro.tokens)  # norm, positions
        rows = micro.rows * shape.text.width * FLOAT
        self._add(last + rows)
        kept = self.now
        logits = head_working(micro.rows, shape.text.width, shape.vocabulary, p, self.text_learns)
        if self.training.entropy:
            logits += 2 * FLOAT * min(micro.rows, CHUNK_ROWS) * shape.vocabulary  # each logit's own gradient
        self._see(logits)
        self._add(self._text_input - last - rows)  # the gradient of the hidden states in their place
        self._head_came_up()
        self._back_through(shape.text, shape.text_layers, layer, self._text_input, micro.tokens)
        self._vision_back()
        return Activations(kept, logits, self.peak)

    @property
    def _text_input(self) -> int:
        return self.micro.tokens * self.shape.text.width * FLOAT

    @property
    def _vision_input(self) -> int:
        return self.micro.patches * self.shape.vision.width * self.precision.compute

    @property
    def _matrix(self) -> int:
        """The gradient of head or embedding."""
        return FLOAT * self.shape.head if self.text_learns else 0

    def _layers_kept(self, block: Block, layers: int, layer: int, inputs: int) -> int:
        return layers * (inputs if self.training.checkpointed else layer)

    def _embedded(self, block: Block, tokens: int, crossed: bool = False) -> int:
        """What is less where the first layer's input comes from weights that do not learn."""
        return 0 if crossed or self.training.checkpointed else -first_input(block, tokens, self.precision)

    def _vision_kept(self) -> int:
        shape, patches, p = self.shape, self.micro.patches, self.precision
        kept = 0
        if self.merger_crossed:
            kept += shape.mergers * merger(shape.vision, patches, p, self.merger_learns, "projector" in shape.adapters)
            merged = shape.parts["projector"] + shape.adapters.get("projector", 0)
            if not (self.vision_crossed or self.merger_learns):
                merged -= (shape.patches_per_token * shape.vision.width) ** 2  # the first one's input needs no gradient
            kept += p.compute * merged if p.casts else 0
        if self.vision_crossed:
            kept += shape.mergers * patches * shape.vision.width * FLOAT  # what the norm of each is given
            kept += self._layers_kept(shape.vision, shape.vision_layers, self._vision_layer, self._vision_input)
            kept += rotary(shape.vision, patches)
            if self.vision_learns:
                kept += patches * shape.patch_inputs * p.compute
            else:
                kept += self._embedded(shape.vision, patches)
        return kept

    @property
    def _vision_layer(self) -> int:
        return vision_layer(self.shape.vision, self.micro.patches, self.precision, self.vision_learns)

    def _head_came_up(self) -> None:
        """A tied head's gradient waits for the embedding's."""
        if self.shape.tied or not self.training.accumulated:
            self._add(self._matrix)

    def _back_through(self, block: Block, layers: int, layer: int, inputs: int, tokens: int) -> None:
        trained = self.text_learns if block is self.shape.text else self.vision_learns
        learning = block.adapters.weights if block.adapters else block.weights if trained else 0
        for _ in range(layers):
            again = layer - inputs if self.training.checkpointed else 0
            self._see(again + way_back(block, tokens, self.precision, self.training.accumulated, trained))
            self._add(-(inputs if self.training.checkpointed else layer))
            if not self.training.accumulated:
                self._add(FLOAT * learning)

    def _vision_back(self) -> None:
        """The embedding of the answers, the vision tower, and the embedding of the prompts."""
        shape, waits = self.shape, self._matrix
        if shape.tied:
            self._see(2 * waits)  # what waits and what comes are added up in memory of their own
        else:
            self._add(waits)
        if self.merger_learns:
            self._see(matrix_gradient(shape.parts.get("projector", 0) // shape.mergers, self.precision))
        if self.vision_crossed:
            self._back_through(
                shape.vision, shape.vision_layers, self._vision_layer, self._vision_input, self.micro.patches
            )
        self._see(2 * waits)

    def _add(self, amount: int) -> None:
        self.now += amount
        self.peak = max(self.peak, self.now)

    def _see(self, passing: int) -> None:
        self.peak = max(self.peak, self.now + passing)
