"""A rollout as tensors: groups of completions, cut into mini-batches and micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from visplay.functional.weights import sequence_mean_weights
from visplay.types import Prompt, Rollout


@dataclass(frozen=True)
class GroupBatch:
    """N prompts with G completions of T tokens each, ready to learn from.

    Args:
        prompts: N prompts.
        prompt_tokens: (N,) tokens of each prompt, images expanded.
        token_ids: (N, G, T) ids, padded on the right.
        mask: (N, G, T) bool, False at padding.
        finished: (N, G) bool, False where a completion was truncated at the token limit.
        sampled_logps: (N, G, T) log-probabilities that the engine reported.
        advantages: (N, G); empty until they are known.
        weights: (N, G, T) fraction of each token in the loss of its update; 0 at padding; empty until it is cut.
        old_logps: (N, G, T) before the first update of the step; None where nothing needs them.
        reference_logps: (N, G, T) under the frozen reference; None without one.
    """

    prompts: tuple[Prompt, ...]
    prompt_tokens: Tensor
    token_ids: Tensor
    mask: Tensor
    finished: Tensor
    sampled_logps: Tensor
    advantages: Tensor = field(default_factory=lambda: torch.empty(0))
    weights: Tensor = field(default_factory=lambda: torch.empty(0))
    old_logps: Tensor | None = None
    reference_logps: Tensor | None = None

    @classmethod
    def collate(cls, rollout: Rollout, prompt_tokens: Sequence[int], device: torch.device | str = "cpu") -> GroupBatch:
        """Pad the completions of a rollout on the right."""
        width = max(len(c.token_ids) for group in rollout.completions for c in group)
        ids = [[list(c.token_ids) + [0] * (width - len(c.token_ids)) for c in g] for g in rollout.completions]
        logps = [[list(c.logps) + [0.0] * (width - len(c.logps)) for c in g] for g in rollout.completions]
        mask = [[[t < len(c.token_ids) for t in range(width)] for c in g] for g in rollout.completions]
        return cls(
            rollout.prompts,
            torch.tensor(prompt_tokens),
            torch.tensor(ids, device=device),
            torch.tensor(mask, device=device),
            torch.tensor([[c.finished for c in group] for group in rollout.completions], device=device),
            torch.tensor(logps, device=device),
        )

    def with_advantages(self, advantages: Tensor) -> GroupBatch:
        """The batch with advantages (N, G)."""
        return replace(self, advantages=advantages.to(self.mask.device))

    def rows(self, start: int, stop: int) -> GroupBatch:
        """Take the prompts from ``start`` to ``stop`` with their groups."""
        tensors: dict[str, Any] = {
            name: value[start:stop] for name, value in vars(self).items() if isinstance(value, Tensor) and len(value)
        }
        return replace(self, prompts=self.prompts[start:stop], **tensors)

    def split(
        self,
        prompts: int | None,
        aggregation: Callable[[Tensor], Tensor] = sequence_mean_weights,
        mask_truncated: bool = False,
    ) -> Iterator[GroupBatch]:
        """Cut into mini-batches; each carries the weights of its own loss.

        Args:
            prompts: Prompts of a mini-batch; None takes all.
            aggregation: Mask (B, T) of the tokens that count to their weights (B, T).
            mask_truncated: Whether completions that were truncated do not count.
        """
        size = prompts or len(self.prompts)
        for start in range(0, len(self.prompts), size):
            mini = self.rows(start, start + size)
            counted = mini.mask & mini.finished[..., None] if mask_truncated else mini.mask
            yield replace(mini, weights=aggregation(counted.flatten(0, 1)).view_as(mini.mask))

    def pieces(self, tokens: int) -> Iterator[tuple[slice, slice]]:
        """Cut into pieces of at most ``tokens`` packed tokens, each prompt counted once a piece.

        A group that is longer is cut too, and its prompt read again for each of its pieces.

        Returns:
            Prompts and completions of each piece; one completion at least.
        """
        lengths = self.mask.sum(-1).tolist()
        groups = [prompt + sum(each) for prompt, each in zip(self.prompt_tokens.tolist(), lengths, strict=True)]
        for start, stop in _runs(groups, tokens):
            if stop - start > 1 or groups[start] <= tokens:
                yield slice(start, stop), slice(None)
                continue
            for first, last in _runs(lengths[start], tokens - int(self.prompt_tokens[start])):
                yield slice(start, stop), slice(first, last)

    def micro_batches(self, tokens: int) -> Iterator[GroupBatch]:
        """The batch in ``pieces``; surplus padding is cut off."""
        return (self.take(*piece) for piece in self.pieces(tokens))

    def take(self, prompts: slice, completions: slice) -> GroupBatch:
        """Some completions of some prompts, without surplus padding."""
        rows = self.rows(prompts.start, prompts.stop)
        tensors: dict[str, Any] = {
            n: v[:, completions] for n, v in vars(rows).items() if isinstance(v, Tensor) and v.dim() > 1
        }
        return replace(rows, **tensors)._trim()

    def _trim(self) -> GroupBatch:
        width = int(self.mask.sum(-1).max())
        tensors: dict[str, Any] = {
            n: v[..., :width] for n, v in vars(self).items() if isinstance(v, Tensor) and v.dim() == 3
        }
        return replace(self, **tensors)


def _runs(sizes: Sequence[int], limit: int) -> Iterator[tuple[int, int]]:
    """Starts and ends of runs whose sizes add up to the limit at most, or of one that is larger."""
    start = 0
    for stop in range(1, len(sizes) + 1):
        if stop == len(sizes) or sum(sizes[start : stop + 1]) > limit:
            yield start, stop
            start = stop
