"""A rollout as tensors, and how it is cut into mini-batches and micro-batches.

Axes: N prompts, G completions per prompt, T tokens of a completion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from visplay.functional.grpo.losses import sequence_mean_weights
from visplay.types import Completion, Prompt, Rollout

MicroBatchIndex = tuple[list[int], slice]
"""Which prompts of a batch, and which of their completions."""


@dataclass(frozen=True)
class GroupBatch:
    """A rollout as tensors: N prompts with G completions of T tokens each.

    Args:
        prompts: N prompts.
        prompt_tokens: (N,) tokens of each prompt, images expanded.
        token_ids: (N, G, T) ids, padded on the right.
        mask: (N, G, T) bool, False at padding.
        finished: (N, G) bool, False where a completion was truncated at the token limit.
        sampled_logps: (N, G, T) log-probabilities that the engine reported.
        rewards: (N, G); empty until they are known, as the next two.
        advantages: (N, G).
        weights: (N, G, T) weight of each token in the loss of its update; 0 at padding.
        old_logps: (N, G, T) before the first update of the step; None where nothing needs them.
        reference_logps: (N, G, T) under the reference policy; None without one.
    """

    prompts: tuple[Prompt, ...]
    prompt_tokens: Tensor
    token_ids: Tensor
    mask: Tensor
    finished: Tensor
    sampled_logps: Tensor
    rewards: Tensor = field(default_factory=lambda: torch.empty(0))
    advantages: Tensor = field(default_factory=lambda: torch.empty(0))
    weights: Tensor = field(default_factory=lambda: torch.empty(0))
    old_logps: Tensor | None = None
    reference_logps: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name, on the CPU."""
        return {name: value.cpu().contiguous() for name, value in vars(self).items() if isinstance(value, Tensor)}

    @classmethod
    def collate(cls, rollout: Rollout, prompt_tokens: Sequence[int], device: torch.device | str = "cpu") -> GroupBatch:
        """Pad the completions of a rollout on the right; ``prompt_tokens`` has the length of each prompt."""
        n, completions = len(rollout.prompts), [c for group in rollout.completions for c in group]

        def pad(values: Callable[[Completion], Sequence], dtype: torch.dtype) -> Tensor:
            rows = pad_sequence([torch.tensor(values(c), dtype=dtype) for c in completions], batch_first=True)
            return rows.unflatten(0, (n, -1)).to(device)

        lengths = torch.tensor([len(c.token_ids) for c in completions]).view(n, -1)
        finished = torch.tensor([c.finished for c in completions]).view(n, -1)
        return cls(
            rollout.prompts,
            torch.tensor(prompt_tokens),
            pad(lambda c: c.token_ids, torch.long),
            (torch.arange(int(lengths.max())) < lengths[..., None]).to(device),
            finished.to(device),
            pad(lambda c: c.logps, torch.float32),
        )

    def take(self, prompts: slice | list[int], completions: slice = slice(None)) -> GroupBatch:
        """Some completions of some prompts, without surplus padding."""
        width = int(self.mask[prompts, completions].sum(-1).max())

        def cut(value: Tensor) -> Tensor:
            index = (prompts, completions, slice(width))
            return value[index[: value.dim()]]

        tensors: dict[str, Any] = {n: cut(v) for n, v in vars(self).items() if isinstance(v, Tensor) and len(v)}
        chosen = self.prompts[prompts] if isinstance(prompts, slice) else tuple(self.prompts[n] for n in prompts)
        return replace(self, prompts=chosen, **tensors)

    @property
    def packed_tokens(self) -> list[int]:
        """(N,) tokens of each group, its prompt counted once."""
        return (self.prompt_tokens + self.mask.sum((1, 2)).to(self.prompt_tokens)).tolist()

    def mini_batches(
        self,
        prompts: int | None,
        aggregation: Callable[[Tensor], Tensor] = sequence_mean_weights,
        mask_truncated: bool = False,
    ) -> Iterator[GroupBatch]:
        """Cut into mini-batches, one optimizer step each; each carries the weights of its own loss.

        Their sizes differ by one at most: a step is as long for a mini-batch of one group that was left over.

        Args:
            prompts: Most prompts of a mini-batch; None takes all.
            aggregation: Mask (B, T) of the tokens that count to their weights (B, T).
            mask_truncated: Whether completions that were truncated do not count.
        """
        total = len(self.prompts)
        parts = ceil(total / (prompts or total))
        for index in range(parts):
            mini = self.take(slice(ceil(index * total / parts), ceil((index + 1) * total / parts)))
            counted = mini.mask & mini.finished[..., None] if mask_truncated else mini.mask
            yield replace(mini, weights=aggregation(counted.flatten(0, 1)).view_as(mini.mask))

    def micro_batches(
        self, tokens: int, prompts: Sequence[int] | None = None
    ) -> Iterator[tuple[MicroBatchIndex, GroupBatch]]:
        """Cut into micro-batches, each with its index; see ``cut``."""
        return ((index, self.take(*index)) for index in self.cut(tokens, prompts))

    def cut(self, tokens: int, prompts: Sequence[int] | None = None) -> Iterator[MicroBatchIndex]:
        """Indices of micro-batches of at most ``tokens`` packed tokens, each prompt counted once in each.

        A group that is longer is cut too, and its prompt read again for each part; one completion is the least.

        Args:
            tokens: Most tokens of a micro-batch.
            prompts: Indices of the groups to cut; None takes all.
        """
        chosen = list(range(len(self.prompts)) if prompts is None else prompts)
        groups = self.packed_tokens
        for start, stop in _runs([groups[n] for n in chosen], tokens):
            run, parts = chosen[start:stop], [slice(None)]
            if len(run) == 1 and groups[run[0]] > tokens:
                lengths = self.mask[run[0]].sum(-1).tolist()
                parts = [slice(*part) for part in _runs(lengths, tokens - int(self.prompt_tokens[run[0]]))]
            for completions in parts:
                yield run, completions


def _runs(sizes: Sequence[int], limit: int) -> Iterator[tuple[int, int]]:
    """Starts and ends of runs whose sizes add up to the limit at most, or of one that is larger."""
    start = total = 0
    for stop, size in enumerate(sizes):
        if stop > start and total + size > limit:
            yield start, stop
            start, total = stop, 0
        total += size
    if sizes:
        yield start, len(sizes)
