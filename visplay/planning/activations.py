"""Bytes that a transformer's layers keep for the backward pass, by formula: what autograd saves, tensor by tensor.

H is the width of the hidden states, Q of all query heads together, K of all key heads, I of the MLP. Hidden states are
float32; the results of products are in ``compute`` bytes an element, 2 under ``bf16-mixed``. Autocast casts what goes
into a product each time and keeps the casts: inputs, and, as Lightning's precision plugin keeps no cache, weights too.
"""

from __future__ import annotations

from dataclasses import dataclass

FLOAT = 4
"""Bytes of a float32 number."""

CHUNK_ROWS = 512
"""Rows of logits that ``token_logps`` has at once."""


@dataclass(frozen=True)
class Precision:
    """What is computed in.

    Args:
        compute: Bytes of an element of a product's result: 2 under ``bf16-mixed``, 4 in float32.
        attention: Bytes of an element in attention; a processor without half precision computes it in float32.
    """

    compute: int = 4
    attention: int = 4

    @property
    def casts(self) -> bool:
        """Whether autocast casts weights and inputs."""
        return self.compute < FLOAT


@dataclass(frozen=True)
class Adapted:
    """The products of a layer that have a low-rank one beside them, counted by where their inputs come from.

    Args:
        rank: R, of the low-rank products.
        attention_inputs: Of queries, keys and values; one where these are joined.
        attention_output: 1 if the one behind attention is adapted.
        inner_inputs: Of those that the MLP's input goes into.
        inner_output: 1 if the MLP's last one is adapted.
        weights: Number of all weights of the low-rank products.
    """

    rank: int
    attention_inputs: int
    attention_output: int
    inner_inputs: int
    inner_output: int
    weights: int

    @property
    def products(self) -> int:
        """Number of adapted products."""
        return self.attention_inputs + self.attention_output + self.inner_inputs + self.inner_output


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
        adapters: Its adapted products; with any its own weights do not learn.
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


def text_layer(block: Block, tokens: int, precision: Precision, trained: bool = True) -> int:
    """Bytes that a layer of the language model keeps for a packed row.

    Args:
        block: Its sizes.
        tokens: Tokens of the row.
        precision: What is computed in.
        trained: Whether its weights learn; else what only their gradients need is not kept.

    Example:
        >>> text_layer(Block(8, 8, 4, 2, 16, True, 500, 128), 10, Precision())
        5600
    """
    p, h = precision, block.width
    norms = 2 * (FLOAT * h + FLOAT)  # its input, and one factor a token
    attention = p.attention * (2 * block.queries + 2 * block.keys) + FLOAT * block.heads  # output and logsumexp too
    kept = norms + attention + p.compute * block.inner * _inner_kept(block, trained)
    if block.head_norms:
        normed = block.queries + block.keys
        kept += FLOAT * normed + FLOAT * block.heads * normed // block.queries + (p.compute * normed if trained else 0)
    if trained:
        kept += 2 * FLOAT * h  # the normalised states, for the scale's gradient
        kept += (3 + _inputs(block)) * p.compute * h if p.casts else 2 * FLOAT * h
        kept += p.compute * block.queries if p.casts and p.attention != p.compute else 0
    return tokens * kept + _cast_weights(block, p) + _adapters_kept(block, tokens, p)


def vision_layer(block: Block, patches: int, precision: Precision, trained: bool = True) -> int:
    """Bytes that a layer of the vision tower keeps for its patches; under autocast its hidden states are cast too.

    Args:
        block: Its sizes.
        patches: Patches of all images.
        precision: What is computed in.
        trained: Whether its weights learn; else gradients pass through it, to adapters or to what is in front.

    Example:
        >>> vision_layer(Block(8, 8, 8, 2, 16, True, 500, 128), 10, Precision())
        6240
    """
    p, w = precision, block.width
    projected = (6 if block.joined else 4) * p.compute  # queries, keys, all three as they were projected, output
    recast = 4 * p.attention  # queries, keys, values, output
    attention = w * (recast if p.casts and p.attention != p.compute else projected)
    kept = 2 * (FLOAT * w + FLOAT) + attention + FLOAT * block.heads
    kept += p.compute * block.inner * _inner_kept(block, trained)
    if trained:  # also the normalised states, what goes into products, and the windows' outputs joined
        products = (1 if block.joined else 3) + _inputs(block) if p.casts else 2
        kept += ((0 if block.layer_norms else 2) + products + 1) * p.compute * w
    return patches * kept + _cast_weights(block, p) + _adapters_kept(block, patches, p, joined=True)


def first_input(block: Block, tokens: int, precision: Precision) -> int:
    """Bytes that the first layer keeps less than others where its input needs no gradient: its norm's, and casts."""
    casts = precision.compute * block.width * (block.queries + 2 * block.keys) if precision.casts else 0
    return tokens * (FLOAT * block.width + FLOAT) + casts


def merger(block: Block, patches: int, precision: Precision, trained: bool, adapted: bool) -> int:
    """Bytes kept by the merger behind a vision tower: its two products with the activation between them, and its norm.

    Args:
        block: A layer of the tower.
        patches: Patches of all images.
        precision: What is computed in.
        trained: Whether its weights learn; else gradients pass through it.
        adapted: Whether its products have low-rank ones beside them.
    """
    states = 4 if trained else 3 if adapted else 1  # normalised and before and behind the activation, or the last two
    return patches * block.width * states * precision.compute


def rotary(block: Block, tokens: int) -> int:
    """Bytes of the cosines and sines that all layers share."""
    return 2 * FLOAT * tokens * (block.queries // block.heads)


def way_back(block: Block, tokens: int, precision: Precision, accumulated: bool, trained: bool = True) -> int:
    """Bytes that a layer's backward pass needs beyond what it keeps, at its widest point, which is in the MLP.

    Args:
        block: Its sizes.
        tokens: Tokens, or patches.
        precision: What is computed in.
        accumulated: Whether a matrix's gradient is added to one that is there, and let go, or stays.
        trained: Whether its own weights learn.

    Returns:
        The larger of two moments: the last product's gradients, of its input and of its matrix; and, behind it, those
        of the activation and of the other factor, while the gradient of their product is still there. A low-rank
        product beside the last one gives its input's gradient a second time and, under autocast, in float32 too.
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


def head_working(rows: int, width: int, vocabulary: int, precision: Precision, trained: bool) -> int:
    """Bytes that log-probabilities of ``rows`` tokens need in the backward pass, in chunks of logits.

    Logits of a chunk are in float32, beside them those of the product; the head's weights are cast once. Its gradient
    is summed in float32, each chunk's share being as large again where it has to be cast. See ``token_logps``.
    """
    p, chunk = precision, min(rows, CHUNK_ROWS) * vocabulary
    head = vocabulary * width
    cast = p.compute * head if p.casts else 0
    logits = chunk * (FLOAT + (p.compute if p.casts else 0))
    product = cast + chunk * p.compute if trained and p.casts else 0
    return FLOAT * rows * width + cast + max(logits, product) + (FLOAT * head if trained else 0)


def _adapters_kept(block: Block, tokens: int, precision: Precision, joined: bool = False) -> int:
    """What adapters keep: the inputs of both low-rank products and, under autocast, casts of their weights.

    Each casts its input anew under autocast; in float32 those of one place share it, and attention keeps its output
    already, unless windows of it were joined.
    """
    a, h = block.adapters, block.width
    if a is None:
        return 0
    outputs = block.queries * a.attention_output
    if precision.casts:
        inputs = h * (a.attention_inputs + a.inner_inputs) + outputs
    else:
        inputs = h * ((a.attention_inputs > 0) + (a.inner_inputs > 0)) + (outputs if joined else 0)
    inputs += block.inner * a.inner_output + a.rank * a.products
    return tokens * precision.compute * inputs + (precision.compute * a.weights if precision.casts else 0)


def _inner_kept(block: Block, trained: bool) -> int:
    """Inner states kept: the activation's input; gated, also its output and the other factor; the product."""
    return (3 if block.gated else 1) + (1 if trained else 0)


def _inputs(block: Block) -> int:
    """Products that the MLP's input goes into."""
    return 2 if block.gated else 1


def _cast_weights(block: Block, precision: Precision) -> int:
    return precision.compute * block.weights if precision.casts else 0
