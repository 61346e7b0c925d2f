"""The values of a judge: its settings, what it is given and what it returns."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class JudgeLimits:
    """How long and how often an endpoint is asked.

    Args:
        concurrent_requests: Most requests under way at a time.
        request_seconds: Time limit of one request, from connecting to the last byte.
        total_seconds: Time limit of one call of ``Judge.judge``; the items left then get no verdict.
        retries: How often at most a request that failed is made again.
        wait_seconds: Wait before the first retry; each further one waits twice as long. Waits are shortened by up to
            half at random, so that requests that failed together do not return together.
        longest_wait_seconds: Longest wait before a retry. An item is given up where the server's Retry-After asks
            for more.
    """

    concurrent_requests: int = 16
    request_seconds: float = 60.0
    total_seconds: float = 3600.0
    retries: int = 5
    wait_seconds: float = 1.0
    longest_wait_seconds: float = 60.0

    def __post_init__(self) -> None:
        """Reject limits that allow nothing."""
        for name, least in {"concurrent_requests": 1, "retries": 0, "wait_seconds": 0}.items():
            if not least <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: must be finite and at least {least}, got {getattr(self, name)}")
        for name in ("request_seconds", "total_seconds", "longest_wait_seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: must be finite and above 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class JudgeConfig:
    """Which model judges, and how. The address and the key come from OPENAI_BASE_URL and OPENAI_API_KEY only.

    Args:
        model: The model's name at the endpoint.
        protocol: ``json``: question, gold and prediction as JSON fields, a verdict by schema, temperature 0.
            ``paper``: as the released evaluation did, without the question, at temperature 0.6, free text (a table made
            so must be named so).
        cache_directory: Where verdicts are kept for later calls and runs; None keeps them in memory.
        limits: How long and how often the endpoint is asked.
        max_tokens: Most tokens of a reply; a model that thinks needs more.
        request_options: Fields of the chat-completions request that replace or extend ours, for an endpoint that is
            particular; None removes a field. They are part of the cache's key.
    """

    model: str
    protocol: Literal["json", "paper"] = "json"
    cache_directory: str | None = None
    limits: JudgeLimits = field(default_factory=JudgeLimits)
    max_tokens: int = 256
    request_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Reject a judge without a name or without a reply, and options that are not ours to give."""
        if not self.model.strip():
            raise ValueError(f"model: must name a model, got {self.model!r}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens: must be at least 1, got {self.max_tokens}")
        if fixed := {"messages", "model", "stream", "n", "extra_body"} & set(self.request_options):
            raise ValueError(f"request_options: {sorted(fixed)} cannot be set there")


@dataclass(frozen=True)
class JudgeItem:
    """One answer to judge.

    Args:
        key: Identity of the item.
        question: What was asked, options included.
        gold: The right answer.
        prediction: The answer to judge; for the ``paper`` protocol the whole completion.
        graded: Whether a score in [0, 1] is wanted besides (MM-Vet); the ``paper`` protocol has none.
    """

    key: str
    question: str
    gold: str
    prediction: str
    graded: bool = False


@dataclass(frozen=True)
class Ruling:
    """What a judge says of a prediction.

    Args:
        correct: Whether it is right.
        score: How much of the gold answer it says, in [0, 1] in steps of 0.1; None where none was wanted.
    """

    correct: bool
    score: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What became of one item.

    Args:
        key: Identity of the item.
        correct: Whether the prediction is right; None when judging failed: the verdict by rule stands.
        score: In [0, 1] in steps of 0.1, for a graded item that was judged; else None.
        reason: Why ``correct`` is None: one of ``FAILURES``; empty otherwise.
        cached: Whether the answer was known before this call: from the cache, or because the prediction is blank.
    """

    key: str
    correct: bool | None
    score: float | None = None
    reason: str = ""
    cached: bool = False


FAILURES = (
    "timed_out",
    "rate_limited",
    "server_error",
    "connection",
    "rejected",
    "malformed",
    "wrong_schema",
    "truncated",
    "out_of_time",
)
"""Why a request or an item failed: it took too long; status 429; 408, 409 or 5xx; no connection, or it broke; another
status 4xx; a reply that is not JSON, not text, or not a chat completion; JSON of another form; a reply truncated at
``max_tokens``; ``total_seconds`` had passed (items only)."""


@dataclass
class JudgeUsage:
    """What judging has cost.

    Args:
        items: Items given to the judge.
        cached_items: Items whose verdict was in the cache.
        blank_items: Items with an empty prediction: wrong, nobody is asked.
        requests: Requests made, retries included.
        prompt_tokens: Tokens read by the judge, as the endpoint reports them.
        completion_tokens: Tokens written by the judge, as the endpoint reports them.
        unreported_requests: Replies without a report of tokens.
        failed_requests: Failed requests by kind (``FAILURES``).
        failed_items: Items without a verdict by kind (``FAILURES``).
    """

    items: int = 0
    cached_items: int = 0
    blank_items: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    unreported_requests: int = 0
    failed_requests: Counter[str] = field(default_factory=Counter)
    failed_items: Counter[str] = field(default_factory=Counter)

    def add(self, other: JudgeUsage) -> None:
        """Add another call's usage to this one."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
