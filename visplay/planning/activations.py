"""Bytes that a transformer's layers keep for the backward pass, by formula: what autograd saves, tensor by tensor.

H is the width of the hidden states, Q of all query heads together, K of all key heads, I of the MLP. Hidden states are
float32; the results of products are in ``compute`` bytes an element, 2 under ``bf16-mixed``. Autocast casts what goes
into a product each time and keeps the casts: inputs, and, as Lightning's precision plugin keeps no cache, weights too.
"""

from __future__ import annotations

from dataclasses import dataclass

FLOAT = 4
"""Bytes of a float32 number."""

CHUNK_TOKENS = 512
"""Tokens whose logits ``token_logps`` has at once."""


@dataclass(frozen=True)
class Precision:
    """Bytes of an element of a product's result, and in attention, which a CPU without bfloat16 computes in float32."""

    compute: int = 4
    attention: int = 4

    @property
    def casts(self) -> bool:
        """Whether autocast casts weights and inputs."""
        return self.compute < FLOAT


@dataclass(frozen=True)
class Adapted:
    """The linear layers of a block that have a LoRA adapter, counted by where their inputs come from.

    Args:
        rank: R, of the adapters.
        attention_inputs: Of queries, keys and values; one where these are joined.
        attention_output: 1 if the one behind attention is adapted.
        inner_inputs: Of those that the MLP's input goes into.
        inner_output: 1 if the MLP's last one is adapted.
        weights: Number of all weights of the adapters.
    """

    rank: int
    attention_inputs: int
    attention_output: int
    inner_inputs: int
    inner_output: int
    weights: int


@dataclass(frozen=True)
class Block:
    """One layer of a transformer.

    Args:
        width: H, of the hidden states.
        queries: Q, of all query heads together.
        keys: K, of all key heads together; values are as wide.
        heads: Query heads.
        inner: I, of the MLP.
        gated: Whether the MLP is down(act(gate(x)) * up(x)), or down(act(up(x))).
        weights: Number of its weights.
        largest: Number of weights of its largest matrix.
        adapters: Its adapters; with any, its own weights do not learn.
        head_norms: Whether queries and keys are normalised, head by head.
        joined: Whether one product makes queries, keys and values, which are then turned by their positions.
        layer_norms: Whether its norms are those of ``nn.LayerNorm``, else of the root mean square.
    """

    width: int
    queries: int
    keys: int
    heads: int
    inner: int
    gated: bool
    weights: int
    largest: int
    adapters: Adapted | None = None
    head_norms: bool = False
    joined: bool = False
    layer_norms: bool = False

    @property
    def mlp_inputs(self) -> int:
        """Products that the MLP's input goes into."""
        return 2 if self.gated else 1


def text_layer(block: Block, tokens: int, precision: Precision, trained: bool = True) -> int:
    """Bytes that a layer of the language model keeps for ``tokens`` of a packed sequence.

    Args:
        block: Its sizes.
        tokens: Tokens of the sequence.
        precision: What is computed in.
        trained: Whether its weights learn; else what only their gradients need is not kept.

    Example:
        >>> text_layer(Block(8, 8, 4, 2, 16, True, 500, 128), 10, Precision())
        5600
    """
    p, h = precision, block.width
    kept = p.attention * 2 * (block.queries + block.keys)  # queries, keys, values and output
    if block.head_norms:
        normed = block.queries + block.keys
        kept += FLOAT * normed + FLOAT * block.heads * normed // block.queries + (p.compute * normed if trained else 0)
    if trained:
        kept += 2 * FLOAT * h  # the normalised states, for the scale's gradient
        kept += (3 + block.mlp_inputs) * p.compute * h if p.casts else 2 * FLOAT * h
        kept += p.compute * block.queries if p.casts and p.attention != p.compute else 0
    return _layer(block, tokens, p, trained, kept, windows=False)


def vision_layer(block: Block, patches: int, precision: Precision, trained: bool = True, gathered: bool = False) -> int:
    """Bytes that a layer of the vision tower keeps; arguments as of ``text_layer``. Autocast casts its states too.

    Args:
        block: Its sizes.
        patches: Patches of the images.
        precision: What is computed in.
        trained: Whether its weights learn.
        gathered: Whether it attends within windows of several lengths: those of each length are gathered, and the
            outputs joined.

    Example:
        >>> vision_layer(Block(8, 8, 8, 2, 16, True, 500, 128), 10, Precision())
        5920
    """
    p, w = precision, block.width
    # queries, keys, values and output; joined, as projected too, unless copies of them were gathered
    projected = (6 if block.joined and not gathered else 4) * p.compute
    kept = w * (4 * p.attention if p.casts and p.attention != p.compute else projected)
    if trained:  # also the normalised states, what goes into products, and outputs that were joined
        products = (1 if block.joined else 3) + block.mlp_inputs if p.casts else 2
        kept += ((0 if block.layer_norms else 2) + products + gathered) * p.compute * w
    return _layer(block, patches, p, trained, kept, windows=gathered)


def _layer(block: Block, tokens: int, p: Precision, trained: bool, kept: int, windows: bool) -> int:
    """What both towers' layers keep, and ``kept`` bytes a token: norms, logsumexp, the MLP, casts and adapters.

    Of the MLP: the activation's input; gated, also its output and the other factor; trained, the product. An adapter's
    products keep their inputs and, under autocast, casts of their weights: each casts its input anew, while in float32
    those of one input share it, and attention keeps its output already, unless ``windows`` of it were joined.
    """
    norms = 2 * (FLOAT * block.width + FLOAT)  # the input, and one factor a token
    inner = p.compute * block.inner * ((3 if block.gated else 1) + trained)
    a, adapters, weights = block.adapters, 0, block.weights
    if a is not None:
        outputs = block.queries * a.attention_output
        if p.casts:
            inputs = block.width * (a.attention_inputs + a.inner_inputs) + outputs
        else:
            inputs = block.width * ((a.attention_inputs > 0) + (a.inner_inputs > 0)) + (outputs if windows else 0)
        products = a.attention_inputs + a.attention_output + a.inner_inputs + a.inner_output
        adapters = p.compute * (inputs + block.inner * a.inner_output + a.rank * products)
        weights += a.weights
    casts = p.compute * weights if p.casts else 0
    return tokens * (norms + kept + FLOAT * block.heads + inner + adapters) + casts


def first_input(block: Block, tokens: int, precision: Precision) -> int:
    """Bytes that the first layer keeps less than others where its input needs no gradient: its norm's, and casts."""
    casts = precision.compute * block.width * (block.queries + 2 * block.keys) if precision.casts else 0
    return tokens * (FLOAT * block.width + FLOAT) + casts


def merger(block: Block, patches: int, precision: Precision, trained: bool, adapted: bool) -> int:
    """Bytes that the merger behind a vision tower keeps: two products with the activation between them, and its norm.

    Trained, the normalised states, and those before and behind the activation; adapted, the last two; else the last.
    """
    return patches * block.width * (4 if trained else 3 if adapted else 1) * precision.compute


def rotary(block: Block, tokens: int) -> int:
    """Bytes of the cosines and sines that all layers share."""
    return 2 * FLOAT * tokens * (block.queries // block.heads)


def backward_bytes(block: Block, tokens: int, precision: Precision, accumulated: bool, trained: bool = True) -> int:
    """Bytes that a layer's backward pass needs beyond what the layer keeps, at its widest point, which is in the MLP.

    Args:
        block: Its sizes.
        tokens: Tokens, or patches.
        precision: What is computed in.
        accumulated: Whether a matrix's gradient is added to one that is there, and let go, or stays.
        trained: Whether its own weights learn.

    Returns:
        The larger of two moments: the last product's gradients, of its input and of its matrix; and, behind it, those
        of the activation and of the other factor, while the gradient of their product is still there. An adapter of
        the last product gives its input's gradient a second time and, under autocast, in float32 too.
    """
    inner, matrix = tokens * precision.compute * block.inner, matrix_gradient(block.largest, precision)
    if block.adapters is not None:
        return 2 * inner + (tokens * FLOAT * block.inner if precision.casts else 0)
    if not trained:
        return (3 if block.gated else 2) * inner
    if not block.gated:
        return inner + matrix
    return max(inner + matrix, 2 * inner + (0 if accumulated else FLOAT * block.largest))


def matrix_gradient(weights: int, precision: Precision) -> int:
    """Bytes of a matrix's gradient before it is added to what there is: as it is computed, and cast to float32."""
    return weights * (FLOAT + (precision.compute if precision.casts else 0))


def head_bytes(tokens: int, width: int, vocabulary: int, precision: Precision, trained: bool) -> int:
    """Bytes that log-probabilities of ``tokens`` need in the backward pass, in chunks of logits; see ``token_logps``.

    Logits of a chunk are in float32, next to those of the product; the head's weights are cast once. Its gradient is
    summed in float32, what each chunk adds being as large again where it has to be cast.
    """
    p, chunk, head = precision, min(tokens, CHUNK_TOKENS) * vocabulary, vocabulary * width
    cast = p.compute * head if p.casts else 0
    logits = chunk * (FLOAT + (p.compute if p.casts else 0))
    product = cast + chunk * p.compute if trained and p.casts else 0
    return FLOAT * tokens * width + cast + max(logits, product) + (FLOAT * head if trained else 0)
