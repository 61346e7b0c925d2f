"""What sampling needs on the device: the engine's weights, its key-value cache, and what it computes with.

The cache of vLLM takes what its fraction of the memory leaves; how much vLLM computes with is its own measurement when
it starts, and an estimate here: logits of all sequences in float32, twice, and the MLP's inner states of one pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from visplay.planning.activations import FLOAT
from visplay.planning.settings import RolePlan, Settings
from visplay.planning.stages import Bytes

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
        """Sequences of full length that it holds."""
        return max(self.total, 0) // (self.token_bytes * self.sequence_tokens)


def longest_prompt(settings: Settings, role: RolePlan) -> int:
    """Tokens of a role's prompt with the largest image."""
    return settings.image.most_tokens + role.template_tokens


def key_value_bytes(settings: Settings) -> int:
    """Bytes of a token's keys and values in all layers, on one device."""
    engine, block = settings.engine, settings.shape.text
    both = 2 * engine.weight_bytes
    if engine.kind == "transformers":  # keys come out of the rotary product in float32
        both = FLOAT + settings.precision.compute
    ranks = engine.settings.tensor_parallel_size if engine.kind == "vllm" else 1
    return both * block.keys * settings.shape.text_layers // ranks


def engine_bytes(settings: Settings) -> tuple[Bytes, Cache | None]:
    """What the engine holds while it samples, and its cache; nothing where it runs on other devices."""
    if settings.engine.kind == "server":
        return {}, None
    return _vllm(settings) if settings.engine.kind == "vllm" else _transformers(settings)


def _vllm(settings: Settings) -> tuple[Bytes, Cache]:
    engine, shape = settings.engine, settings.shape
    ranks, given = engine.settings.tensor_parallel_size, engine.settings.cache_gib
    weights = engine.weight_bytes * shape.weights // ranks
    logits = 2 * FLOAT * engine.max_sequences * shape.vocabulary
    passing = 2 * engine.weight_bytes * engine.settings.max_batched_tokens * shape.text.inner // ranks
    on_cpu = _CPU_CACHE if settings.device.kind == "cpu" else None
    total = int(given * 2**30) if given else on_cpu
    if total is None:
        total = int(engine.settings.gpu_memory_utilization * settings.device.memory) - weights - logits - passing
    cache = Cache(key_value_bytes(settings), total, settings.context_tokens)
    parts = {"engine weights": weights, "engine at work (estimate)": logits + passing, "key-value cache": max(total, 0)}
    if shape.adapters:  # as the engine is given it: the product of both adapters, and its sum with the weight
        parts["one merged weight"] = 2 * FLOAT * shape.text.largest
    return parts, cache


def _transformers(settings: Settings) -> tuple[Bytes, Cache]:
    """The policy's own weights, cast once a batch; a cache with room for a quarter more, one layer copied as it grows.

    Logits are there five times in float32: as they are, tempered, without banned tokens, as log-probabilities, and
    as what is drawn from.
    """
    shape, engine = settings.shape, settings.engine
    votes = 0 if settings.voting is None else settings.voting.votes
    side_by_side = max(engine.max_sequences, votes, *(role.grpo.group_size for role in settings.roles))
    longest = max(longest_prompt(settings, role) + role.asks_of + role.grpo.max_new_tokens for role in settings.roles)
    longest = min(longest, settings.context_tokens)
    token = key_value_bytes(settings)
    cache = int(1.25 * side_by_side * longest * token)
    cast = settings.precision.compute * shape.weights if settings.precision.casts else 0
    parts = {"cast weights": cast} if cast else {}
    parts |= {
        "key-value cache": cache + cache // shape.text_layers,
        "logits (estimate)": 5 * FLOAT * side_by_side * shape.vocabulary,
    }
    return parts, Cache(token, cache, longest)
