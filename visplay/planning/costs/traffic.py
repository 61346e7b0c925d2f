"""Bytes that one rank sends in each stage; as many reach it.

A ring moves (n - 1) / n of all bytes for an all-gather or a reduce-scatter, and twice that for an all-reduce (Patarasuk
and Yuan, 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations").
"""

from __future__ import annotations

from visplay.planning.activations import FLOAT
from visplay.planning.costs.stage_work import Learned
from visplay.planning.memory import Shape

_COMPLETION_TOKEN_BYTES = 18
"""Of a completion, as it is pickled, measured of 512 tokens: a token's number, its log-probability, and its text."""


def gathered(size: float, ranks: int) -> float:
    """Bytes of an all-gather, or a reduce-scatter, of ``size`` bytes in all.

    Example:
        >>> gathered(800, ranks=4)
        600.0
    """
    return size * (ranks - 1) / ranks


def summed(size: float, ranks: int) -> float:
    """Bytes of an all-reduce."""
    return 2 * gathered(size, ranks)


def completion_bytes(completions: float, tokens: float, ranks: int) -> float:
    """Completions of all ranks travel to all."""
    return gathered(completions * tokens * _COMPLETION_TOKEN_BYTES, ranks)


def ddp_update_bytes(trained: int, updates: int, ranks: int) -> float:
    """Gradients are summed in float32, once in an update; see ``visplay.ranks.sum_gradients``."""
    return updates * summed(FLOAT * trained, ranks)


def fsdp_update_bytes(shape: Shape, trained: int, learned: Learned, ranks: int) -> float:
    """Each micro-batch gathers the weights twice, forward and back, and scatters the sums of gradients, in float32.

    What is in no layer stays between the two. Scoring gathers once. All ranks take part in every micro-batch of any. Of
    adapters, which are whole on each rank, gradients are summed once in an update.
    """
    micro = learned.updates * learned.micro_batches(learned.prompts / learned.updates)
    scoring = learned.scores * learned.micro_batches(learned.prompts)
    weights = micro * (2 * shape.weights - shape.outside_layers) + scoring * shape.weights
    if shape.adapters:
        return gathered(FLOAT * weights, ranks) + ddp_update_bytes(trained, learned.updates, ranks)
    return gathered(FLOAT * (weights + micro * trained), ranks)


def tensor_parallel_bytes(shape: Shape, tokens: float, weight_bytes: int, ranks: int) -> float:
    """Hidden states are summed twice in each layer (Shoeybi et al., 2019, arXiv 1909.08053)."""
    return summed(2 * shape.text_layers * tokens * shape.text.width * weight_bytes, ranks)
