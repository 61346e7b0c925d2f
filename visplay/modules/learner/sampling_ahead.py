"""Sampling one step ahead (``staleness: 1``): a server samples for the next step while this one's updates run.

So the completions of step k + 1 come from the weights of before the updates of step k. The first step of a phase has
none that are waiting, and samples as without staleness.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from visplay.modules.policy.vlm import VLM
from visplay.types import Completion, Prompt, Rollout, Sampling

logger = logging.getLogger(__name__)


class NextStep(NamedTuple):
    """What the step after the one under way samples.

    Args:
        items: N images or examples; none after the last step of a phase.
        seed: Root of its draws.
    """

    items: Sequence
    seed: int


class SampledRole(Protocol):
    """What sampling ahead needs of a role."""

    vlm: VLM

    def prompts(self, items: Sequence) -> list[Prompt]:
        """One prompt per item."""

    def sampling(self, n: int, seed: int) -> Sampling:
        """How it samples ``n`` completions."""

    def begin_sample(self, prompts: Sequence[Prompt], sampling: Sampling) -> Callable[[], list[list[Completion]]]:
        """Begin to sample from the policy as it is now; the function returned waits for the completions."""


class _Sampled(NamedTuple):
    """Completions that a step is to learn from.

    Args:
        asked: Tells the prompts and how they were sampled from all others.
        version: Of the policy that they were sampled from.
        groups: G completions for each prompt.
    """

    asked: str
    version: int
    groups: tuple[tuple[Completion, ...], ...]


class SamplingAhead:
    """The completions of the next step; a checkpoint keeps them, as the weights that they come from are gone.

    Attributes:
        stale: Whether the step under way learns from samples of other weights than it began with.
    """

    def __init__(self) -> None:
        self.stale = False
        self._sampled: _Sampled | None = None
        self._wait: Callable[[], _Sampled] | None = None

    def begin(self, role: SampledRole, step: NextStep, n: int) -> None:
        """Begin to sample ``n`` completions for each item of the next step; requests alone are made in threads."""
        if not step.items:
            return
        prompts, sampling = role.prompts(step.items), role.sampling(n, step.seed)
        asked, version, wait = _identify(prompts, sampling), role.vlm.version, role.begin_sample(prompts, sampling)
        self._wait = lambda: _Sampled(asked, version, tuple(map(tuple, wait())))

    def finish(self) -> None:
        """Wait for what was begun."""
        if self._wait is not None:
            self._sampled, self._wait = self._wait(), None

    def take(self, role: SampledRole, items: Sequence, n: int, seed: int) -> Rollout | None:
        """The rollout of a step that begins, if it was sampled ahead; a continued run may ask for another one."""
        sampled, self._sampled, self.stale = self._sampled, None, False
        if sampled is None:
            return None
        prompts = role.prompts(items)
        if sampled.asked != _identify(prompts, role.sampling(n, seed)):
            logger.warning("%s: what was sampled ahead is not what this step asks; it samples anew", role.vlm.name)
            return None
        self.stale = sampled.version != role.vlm.version
        return Rollout(tuple(prompts), sampled.groups)

    def clear(self) -> None:
        """Let go of what no step will learn from."""
        self._sampled = self._wait = None

    def state_dict(self) -> dict[str, Any] | None:
        """The completions as tensors; None where none are waiting."""
        if self._sampled is None:
            return None
        asked, version, groups = self._sampled
        completions = [completion for group in groups for completion in group]
        return {
            "asked": asked,
            "version": version,
            "group_size": len(groups[0]),
            "lengths": torch.tensor([len(c.token_ids) for c in completions]),
            "token_ids": torch.tensor([token for c in completions for token in c.token_ids]),
            "logps": torch.tensor([logp for c in completions for logp in c.logps], dtype=torch.float64),
            "texts": [c.text for c in completions],
            "finished": torch.tensor([c.finished for c in completions]),
        }

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Undo ``state_dict``."""
        self.clear()
        if state is None:
            return
        lengths, n = state["lengths"].tolist(), state["group_size"]
        ids, logps = ([tuple(part.tolist()) for part in state[name].split(lengths)] for name in ("token_ids", "logps"))
        rows = zip(ids, logps, state["texts"], state["finished"].tolist(), strict=True)
        completions = [Completion(*row) for row in rows]
        groups = tuple(tuple(completions[start : start + n]) for start in range(0, len(completions), n))
        self._sampled = _Sampled(state["asked"], state["version"], groups)


def _identify(prompts: Sequence[Prompt], sampling: Sampling) -> str:
    asked = sampling, [(prompt.key, prompt.token_ids) for prompt in prompts]
    return hashlib.sha256(repr(asked).encode("utf-8", "surrogatepass")).hexdigest()
