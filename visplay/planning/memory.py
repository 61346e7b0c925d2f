"""The memory of an update: what is resident all the time, and the course of one micro-batch, which gives the peak.

A micro-batch goes forward through the vision tower and the language model, which leaves its activations; the backward
pass lets them go layer by layer, while gradients come up. The peak is where the sum is highest.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from visplay.planning.activations import (
    CHUNK_TOKENS,
    FLOAT,
    Block,
    Precision,
    backward_bytes,
    first_input,
    head_bytes,
    matrix_gradient,
    merger,
    rotary,
    text_layer,
    vision_layer,
)

GATHERED_LAYERS = 2
"""Layers of weights that are cut over devices that are whole at a time: the one at work, and the next."""
Bytes = dict[str, int]
"""Bytes by what they are for, in the order they are shown."""


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
        window_patches: Patches that attend to each other where the vision tower has windows; 0 where it has none.
        full_layers: Layers of such a tower in which all patches of an image do.
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
    window_patches: int = 0
    full_layers: int = 0

    @property
    def weights(self) -> int:
        """Number of all weights."""
        return sum(self.parts.values())

    @property
    def adapter_weights(self) -> int:
        """Number of an adapter's weights; 0 where the weights themselves learn."""
        return sum(self.adapters.values())

    @property
    def outside_layers(self) -> int:
        """Number of weights in no layer: embedding and head above all."""
        return self.weights - self.text_layers * self.text.weights - self.vision_layers * self.vision.weights

    @property
    def head(self) -> int:
        """Number of weights of the head."""
        return self.vocabulary * self.text.width


@dataclass(frozen=True)
class Micro:
    """A micro-batch as a packed sequence.

    Args:
        tokens: L: each prompt once, images expanded, and the completions.
        scored: Tokens of completions, each of which is scored.
        patches: Patches of all its images.
    """

    tokens: int
    scored: int
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


@dataclass(frozen=True)
class Residents:
    """What is on the device besides a stage's own needs.

    Args:
        process: Bytes of the process itself: libraries on a CPU, the context on a GPU.
        idle: Number of weights of policies that do not learn; of one that is an adapter, its own.
        reference: Number of weights of the frozen copy that the KL is measured from, likewise.
        shards: Devices over which weights, gradients and optimizer states are cut.
    """

    process: int = 0
    idle: int = 0
    reference: int = 0
    shards: int = 1


@dataclass(frozen=True)
class Activations:
    """Bytes of a micro-batch besides weights and gradients.

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
    own = sum(count for part, count in shape.parts.items() if part not in training.frozen)
    return shape.adapter_weights if shape.adapters else own


def policy_bytes(shape: Shape, residents: Residents) -> Bytes:
    """Weights in float32, which are the masters: nothing keeps a second copy in another precision."""
    own = FLOAT * (shape.weights // residents.shards + shape.adapter_weights)
    idle = FLOAT * residents.idle // _shards(shape, residents)
    parts = {"process": residents.process, "weights, float32 masters": own}
    return parts | ({"idle policy": idle} if idle else {})


def phase_bytes(shape: Shape, training: Training, residents: Residents) -> Bytes:
    """What is there between the updates of a phase: also the reference, and the two optimizer states of AdamW."""
    shards = _shards(shape, residents)
    reference = FLOAT * residents.reference // shards
    parts = policy_bytes(shape, residents) | ({"reference policy": reference} if reference else {})
    return parts | {"optimizer states": 2 * FLOAT * trained_weights(shape, training) // shards}


def update_bytes(shape: Shape, training: Training, residents: Residents, micros: tuple[Micro, ...]) -> Bytes:
    """An update at its peak, with the micro-batch that needs most."""
    learning = FLOAT * trained_weights(shape, training)
    sharded = residents.shards > 1
    course = max((activations(shape, micro, training, sharded) for micro in micros), key=lambda each: each.peak)
    gradients = learning // _shards(shape, residents)
    beyond = course.peak - course.kept
    if not (training.accumulated or sharded):  # those that came up are part of the peak
        beyond = max(course.peak, learning) - gradients - course.kept
    parts = phase_bytes(shape, training, residents) | {"gradients": gradients, "activations": course.kept}
    return parts | {"logits and backward pass": beyond} | _gathered(shape, residents)


def scoring_bytes(shape: Shape, training: Training, residents: Residents, micros: tuple[Micro, ...]) -> Bytes:
    """What scoring under the reference needs, before the updates: one layer's states, and a chunk of logits.

    No gradient is there. An estimate from above: a layer's states go one after another and not together.
    """
    p, working = training.precision, 0
    for micro in micros:
        text = text_layer(shape.text, micro.tokens, p, trained=False) + 2 * FLOAT * micro.tokens * shape.text.width
        vision = vision_layer(shape.vision, micro.patches, p, trained=False)
        head = head_bytes(micro.scored, shape.text.width, shape.vocabulary, p, trained=False)
        working = max(working, text, vision, head)
    if residents.shards > 1:
        working += GATHERED_LAYERS * FLOAT * shape.text.weights
    parts = phase_bytes(shape, training, residents) | {"scoring (estimate)": working}
    return parts | _gathered(shape, residents)


def _shards(shape: Shape, residents: Residents) -> int:
    """Parts that what a policy has for itself is cut into; an adapter is whole on each device."""
    return 1 if shape.adapters else residents.shards


def _gathered(shape: Shape, residents: Residents) -> Bytes:
    """Of weights that are cut over devices, in float32, what is in no layer and stays."""
    return {"gathered weights": FLOAT * shape.outside_layers} if residents.shards > 1 else {}


def activations(shape: Shape, micro: Micro, training: Training, sharded: bool = False) -> Activations:
    """Follow one micro-batch through an update.

    Autograd goes back in the order in which the forward pass made its results: head, language model, embedding of the
    completions, vision tower, embedding of the prompts. The gradient of the embedding is as large as the whole matrix,
    and its uses are summed before they are added to what there is. Where weights are cut over devices, a layer that is
    gone back through is whole, as are the next one, its gradient, and the copy of it that is sent.
    """
    return _Course(shape, micro, training, sharded).follow()


class _Course:
    """The sum of bytes as it goes up and down."""

    def __init__(self, shape: Shape, micro: Micro, training: Training, sharded: bool) -> None:
        self.shape, self.micro, self.training, self.precision = shape, micro, training, training.precision
        self.sharded, self.accumulated = sharded, training.accumulated or sharded
        self.text_learns, self.merger_learns, self.vision_learns = (
            not shape.adapters and part not in training.frozen
            for part in ("language_model", "projector", "vision_tower")
        )
        self.vision_crossed = self.vision_learns or "vision_tower" in shape.adapters
        self.merger_crossed = self.vision_crossed or self.merger_learns or "projector" in shape.adapters
        self.text_input = micro.tokens * shape.text.width * FLOAT
        self.vision_input = micro.patches * shape.vision.width * self.precision.compute
        self.text = text_layer(shape.text, micro.tokens, self.precision, self.text_learns)
        self.vision = self._mean_vision_layer()
        self.now = self.peak = 0

    def follow(self) -> Activations:
        shape, micro, training = self.shape, self.micro, self.training
        kept = self._vision_kept() + shape.text_layers * (self.text_input if training.checkpointed else self.text)
        if training.checkpointed:  # the first input is a part of what all mergers gave
            kept += (shape.mergers - 1) * self.text_input
        elif not (self.text_learns or self.merger_crossed):  # the first input comes from weights that do not learn
            kept -= first_input(shape.text, micro.tokens, self.precision)
        last = (2 if self.text_learns else 1) * self.text_input + rotary(shape.text, micro.tokens)  # norm, positions
        scored = micro.scored * shape.text.width * FLOAT
        kept += last + scored
        logits = head_bytes(micro.scored, shape.text.width, shape.vocabulary, self.precision, self.text_learns)
        if training.entropy:
            logits += 2 * FLOAT * min(micro.scored, CHUNK_TOKENS) * shape.vocabulary  # each logit's own gradient
        self._add(kept, passing=logits)
        self._add(self.text_input - last - scored)  # the gradient of the hidden states instead
        matrix = FLOAT * shape.head if self.text_learns else 0  # the gradient of head or embedding
        if shape.tied or not self.accumulated:  # a tied head's gradient waits for the embedding's
            self._add(matrix)
        self._back(shape.text, shape.text_layers, self.text, self.text_input, micro.tokens, self.text_learns)
        # the embedding of the completions: if tied, what waits and what comes are added up in memory of their own
        self._add(0 if shape.tied else matrix, passing=2 * matrix if shape.tied else 0)
        if self.merger_learns:
            gradient = matrix_gradient(shape.parts.get("projector", 0) // shape.mergers, self.precision)
            self._add(0, passing=gradient)
        if self.vision_crossed:
            vision = shape.vision, shape.vision_layers, self.vision, self.vision_input
            self._back(*vision, micro.patches, self.vision_learns)
        self._add(0, passing=2 * matrix)  # the embedding of the prompts
        return Activations(kept, logits, self.peak)

    def _mean_vision_layer(self) -> int:
        """Bytes that a layer of the vision tower keeps, a mean over those with windows and those without."""
        shape, patches, layers = self.shape, self.micro.patches, self.shape.vision_layers
        mixed = shape.window_patches > 0 and patches % shape.window_patches > 0
        windowed = layers - shape.full_layers if mixed else 0
        one, other = (
            vision_layer(shape.vision, patches, self.precision, self.vision_learns, gathered)
            for gathered in (True, False)
        )
        return (windowed * one + (layers - windowed) * other) // max(layers, 1)

    def _vision_kept(self) -> int:
        shape, patches, p, kept = self.shape, self.micro.patches, self.precision, 0
        if self.merger_crossed:
            kept += shape.mergers * merger(shape.vision, patches, p, self.merger_learns, "projector" in shape.adapters)
            merged = shape.parts["projector"] + shape.adapters.get("projector", 0)
            if not (self.vision_crossed or self.merger_learns):
                merged -= (shape.patches_per_token * shape.vision.width) ** 2  # the first one's input needs no gradient
            kept += p.compute * merged if p.casts else 0
        if self.vision_crossed:
            kept += shape.mergers * patches * shape.vision.width * FLOAT  # what the norm of each is given
            kept += shape.vision_layers * (self.vision_input if self.training.checkpointed else self.vision)
            kept += rotary(shape.vision, patches)
            if self.vision_learns:
                kept += patches * shape.patch_inputs * p.compute
            elif not self.training.checkpointed:
                kept -= first_input(shape.vision, patches, p)
        return kept

    def _back(self, block: Block, layers: int, layer: int, inputs: int, tokens: int, trained: bool) -> None:
        """Backward through the layers of a part."""
        kept = inputs if self.training.checkpointed else layer
        working = layer - kept + backward_bytes(block, tokens, self.precision, self.accumulated, trained)
        if self.sharded:
            working += (GATHERED_LAYERS + 2 * trained) * FLOAT * block.weights
        learning = block.adapters.weights if block.adapters else block.weights if trained else 0
        for _ in range(layers):
            self._add(0, passing=working)
            self._add(-kept)
            self._add(0 if self.accumulated else FLOAT * learning)

    def _add(self, amount: int, passing: int = 0) -> None:
        """Add what stays; ``passing`` is there for a moment on top of it."""
        self.now += amount
        self.peak = max(self.peak, self.now + passing)
