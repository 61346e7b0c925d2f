"""What sampling needs on the device: the engine's weights, its key-value cache, and what it computes with.

The cache of vLLM takes what its fraction of the memory leaves; how much vLLM computes with is its own measurement when
it starts, and an estimate here: logits of all sequences in float32, twice, and the MLP's inner states of one pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from visplay.planning.activations import FLOAT
from visplay.planning.memory import Bytes
from visplay.planning.settings import Settings, TransformersPlan, VLLMPlan

_CPU_CACHE = 2**30
"""Bytes of vLLM's cache on a CPU where none are set."""


@dataclass(frozen=True)
class Cache:
    """A key-value cache.

    Args:
        token_bytes: Bytes of a token in all layers.
        total: Bytes of the cache, negative where weights alone are too much.
        sequence_tokens: Tokens of a sequence of full length.
    """

    token_bytes: int
    total: int
    sequence_tokens: int

    @property
    def sequences(self) -> int:
        """Sequences of full length that fit in it."""
        return max(self.total, 0) // (self.token_bytes * self.sequence_tokens)


def engine_bytes(settings: Settings) -> tuple[Bytes, Cache | None]:
    """What the engine needs while it samples, and its cache; nothing where it runs on other devices."""
    if settings.engine is None:
        return {}, None
    if isinstance(settings.engine, VLLMPlan):
        return _vllm(settings, settings.engine)
    return _transformers(settings, settings.engine)


def _vllm(settings: Settings, engine: VLLMPlan) -> tuple[Bytes, Cache]:
    shape, ranks, given = settings.shape, engine.settings.tensor_parallel_size, engine.settings.cache_gib
    weights = engine.weight_bytes * shape.weights // ranks
    logits = 2 * FLOAT * engine.settings.max_sequences * shape.vocabulary
    passing = 2 * engine.weight_bytes * engine.settings.max_batched_tokens * shape.text.inner // ranks
    if given:
        total = int(given * 2**30)
    elif settings.device.kind == "cpu":
        total = _CPU_CACHE
    else:
        total = int(engine.settings.gpu_memory_utilization * settings.device.memory) - weights - logits - passing
    token = 2 * engine.weight_bytes * shape.text.keys * shape.text_layers // ranks
    parts = {"engine weights": weights, "engine at work (estimate)": logits + passing, "key-value cache": max(total, 0)}
    if shape.adapters:  # as the engine is given it: the product of both adapters, and its sum with the weight
        parts["one merged weight"] = 2 * FLOAT * shape.text.largest
    return parts, Cache(token, total, settings.context_tokens)


def _transformers(settings: Settings, engine: TransformersPlan) -> tuple[Bytes, Cache]:
    """The policy's own weights, cast once a batch; a cache with room for a quarter more, one layer copied as it grows.

    Every sequence is counted with a prompt of its own, as where one completion is asked for; a group has one.
    Weights that are cut over devices are gathered, all at once. Keys come out of the rotary product in float32.
    Logits are there five times in float32: as they are, tempered, without banned tokens, as log-probabilities, and as
    what is drawn from.
    """
    shape, precision = settings.shape, settings.precision
    votes = 0 if settings.voting is None else settings.voting.votes
    sequences = max(engine.max_sequences, votes, *(role.grpo.group_size for role in settings.roles))
    longest = max(
        settings.longest_prompt(role) + role.question_tokens + role.grpo.max_new_tokens for role in settings.roles
    )
    longest = min(longest, settings.context_tokens)
    token = (FLOAT + precision.compute) * shape.text.keys * shape.text_layers
    cache = int(1.25 * sequences * longest * token)
    parts = {"cast weights": precision.compute * shape.weights} if precision.casts else {}
    if settings.device.shards > 1:
        parts["gathered weights"] = FLOAT * shape.weights
    parts |= {
        "key-value cache": cache + cache // shape.text_layers,
        "logits (estimate)": 5 * FLOAT * sequences * shape.vocabulary,
    }
    return parts, Cache(token, cache, longest)
