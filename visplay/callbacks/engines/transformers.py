"""Rollouts with transformers alone, from the very weights that are trained: no copy, nothing to keep in step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from visplay.callbacks.engines.engine import RolloutEngine
from visplay.functional.grpo.sampling import draw_tokens, truncate_logits, uniform_stream
from visplay.modules.policy.prefill import group_by_images
from visplay.modules.policy.vlm import VLM
from visplay.modules.policy.weights.placement import placed
from visplay.modules.policy.weights.sharding import gather, release
from visplay.types import Completion, Prompt, Sampling, derive_seed


class TransformersRollout(RolloutEngine):
    """Samples with the policy's own modules: each prompt is read once, then continued ``n`` times.

    What the prompts about one image begin with is read once for all of them. Sharded weights are gathered on each rank
    from its first sample to ``sleep``, before the update.

    Args:
        max_sequences: Most sequences in a batch.
    """

    def __init__(self, max_sequences: int = 512) -> None:
        super().__init__()
        if max_sequences < 1:
            raise ValueError(f"max_sequences: {max_sequences} must be at least 1")
        self.max_sequences = max_sequences
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
        """Sample in batches of prompts about the same images and of similar length; the result's order is theirs."""
        batches = _cut_batches(policy, prompts, max(1, self.max_sequences // sampling.n))
        results: dict[int, list[Completion]] = {}
        device = self.device_for(policy)
        of_copy = nullcontext() if policy.shards is None else policy.gathered()
        with of_copy, placed(policy, device), self._compute_precision(policy, device.type):
            for batch in batches:
                results |= zip(batch, _sample_batch(policy, [prompts[i] for i in batch], sampling), strict=True)
        return [results[index] for index in range(len(prompts))]

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


def _cut_batches(policy: VLM, prompts: Sequence[Prompt], size: int) -> list[list[int]]:
    """Cut the indices of prompts into batches; the prompts about one image stay together where they fit."""
    lengths = [policy.prompt_tokens(prompt) for prompt in prompts]
    groups = sorted(group_by_images(policy, prompts), key=lambda group: max(lengths[i] for i in group))
    batches: list[list[int]] = []
    for group in groups:
        for start in range(0, len(group), size):
            chunk = group[start : start + size]
            if not batches or len(batches[-1]) + len(chunk) > size:
                batches.append([])
            batches[-1] += chunk
    return batches


def _sample_batch(policy: VLM, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
    """Read N prompts once, then sample B = N n completions, token by token.

    A sequence that has stopped leaves the batch once a quarter of it has.
    """
    device, limit = policy.device, sampling.max_new_tokens
    numbers = range(sampling.first, sampling.first + sampling.n)
    seeds = [derive_seed(sampling.seed, prompt.key, i) for prompt in prompts for i in numbers]
    uniforms = uniform_stream(seeds, limit)
    uniforms = uniforms.to(device) if device.type != "mps" else uniforms.float().to(device)
    sampled_ids = torch.zeros(len(seeds), limit, dtype=torch.long, device=device)
    sampled_logps = torch.zeros(len(seeds), limit, device=device)
    lengths = torch.zeros(len(seeds), dtype=torch.long, device=device)
    finished = torch.zeros(len(seeds), dtype=torch.bool, device=device)
    stop_ids = torch.tensor(policy.stop_token_ids, device=device)

    first, context = policy.prefill(prompts)
    batch = torch.arange(len(seeds), device=device)  # the sequences that are still in it
    hidden, context = first[batch // sampling.n], context.take(batch // sampling.n, to_sample=True)
    for step in range(limit):
        tokens, logps = _next_tokens(policy.logits(hidden, sampling.temperature), uniforms[batch, step], sampling)
        alive = ~finished[batch]
        sequences = batch[alive]
        sampled_ids[sequences, step], sampled_logps[sequences, step] = tokens[alive], logps[alive]
        lengths[sequences] += 1
        finished[sequences] = torch.isin(tokens, stop_ids)[alive]
        alive = ~finished[batch]
        remaining = int(alive.sum())
        if remaining == 0 or step + 1 == limit:
            break
        if remaining <= 0.75 * len(batch):
            kept = alive.nonzero().squeeze(1)
            context, batch, tokens = context.take(kept, to_sample=True), batch[kept], tokens[kept]
        extended, context = policy.extend(context, tokens[:, None])
        hidden = extended[:, -1]

    columns = (sampled_ids.tolist(), sampled_logps.tolist(), lengths.tolist(), finished.tolist())
    completions = [
        Completion(tuple(ids[:length]), tuple(logps[:length]), policy.decode(ids[:length]), done)
        for ids, logps, length, done in zip(*columns, strict=True)
    ]
    return [completions[start : start + sampling.n] for start in range(0, len(completions), sampling.n)]


def _next_tokens(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Next token (B,) and its log-probability (B,) before truncation."""
    if sampling.temperature == 0:
        tokens = logits.argmax(-1)
    else:
        tokens = draw_tokens(truncate_logits(logits, sampling.top_p, sampling.top_k), uniforms)
    return tokens, logits.log_softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)
