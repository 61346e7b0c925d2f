"""Rollouts with transformers alone, from the very weights that are trained: no copy, nothing to keep in step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from visplay.callbacks.engines.engine import RolloutEngine
from visplay.callbacks.engines.sampler import Sampler
from visplay.modules.policy.vlm import VLM
from visplay.modules.policy.weights.placement import placed
from visplay.modules.policy.weights.sharding import gather, release
from visplay.types import Completion, Prompt, Sampling


class TransformersRollout(RolloutEngine):
    """Samples with the policy's own modules: each prompt is read once, then continued ``n`` times.

    What the prompts about one image begin with is read once for all of them. Sharded weights are gathered on each rank
    from its first sample to ``sleep``, before the update.

    Args:
        max_sequences: Most sequences under way; one that ends makes room for others.
        drafts: Most tokens that are read ahead of a completion where it repeats its prompt or the group's other
            completions; samples are the same. It pays for long completions of few sequences. 0 reads none ahead.
    """

    def __init__(self, max_sequences: int = 512, drafts: int = 0) -> None:
        super().__init__()
        if max_sequences < 1:
            raise ValueError(f"max_sequences: {max_sequences} must be at least 1")
        if drafts < 0:
            raise ValueError(f"drafts: {drafts} must be at least 0")
        self.max_sequences = max_sequences
        self.drafts = drafts
        self._gathered: Any = None

    def load(self, policy: Any) -> None:
        """Gather the policy's weights where they are sharded, and let go of another's.

        Those of a frozen copy take the place of the policy's while it is sampled from, and no longer.
        """
        model = policy.model
        if self._gathered is not model or policy.shards is not None:
            self.sleep()
        super().load(policy)
        if policy.sharded and policy.shards is None:
            self._gathered = model
            gather(model)

    def sleep(self) -> None:
        """Let go of what is gathered."""
        if self._gathered is not None:
            release(self._gathered)
            self._gathered = None

    def close(self) -> None:
        """Let go of what is gathered."""
        self.sleep()
        super().close()

    def load_weights(self, policy: VLM) -> None:
        """Nothing to bring: the policy's own weights are sampled from."""

    def sample(self, policy: VLM, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Sample with at most ``max_sequences`` under way; one that ends makes room for the next prompts."""
        return self.sample_each(policy, prompts, [sampling])[0]

    def sample_each(
        self, policy: VLM, prompts: Sequence[Prompt], samplings: Sequence[Sampling]
    ) -> list[list[list[Completion]]]:
        """Read the prompts once, and sample in all ways at once."""
        device = self.device_for(policy)
        of_copy = nullcontext() if policy.shards is None else policy.gathered()
        with of_copy, placed(policy, device), self._compute_precision(policy, device.type):
            return Sampler(policy, prompts, samplings, self.max_sequences, self.drafts).run()

    @contextmanager
    def _compute_precision(self, policy: VLM, device: str) -> Iterator[None]:
        """The trainer's compute precision, so that sampling and training round alike.

        Lightning's autocast keeps no cast weights, as they change within a training step; while a batch is sampled they
        do not, and are cast once instead of once a token. Autocast keeps casts of weights that require gradients only,
        so those that are frozen are said to, too; sampling makes no graph.
        """
        frozen = [weight for weight in policy.parameters() if not weight.requires_grad]
        with nullcontext() if self.trainer is None else self.trainer.precision_plugin.forward_context():
            if not torch.is_autocast_enabled(device):
                yield
                return
            torch.clear_autocast_cache()
            try:
                for weight in frozen:
                    weight.requires_grad_(True)
                with torch.autocast(device, torch.get_autocast_dtype(device), cache_enabled=True):
                    yield
            finally:
                for weight in frozen:
                    weight.requires_grad_(False)
                torch.clear_autocast_cache()
