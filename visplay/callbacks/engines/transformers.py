"""Rollouts with transformers alone, from the very weights that are trained: no copy, nothing to keep in step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from visplay.callbacks.engines.engine import RolloutEngine
from visplay.functional.sampling import draw_tokens, truncate_logits, uniform_stream
from visplay.modules.policy.placement import placed
from visplay.modules.policy.prefill import group_by_images
from visplay.modules.policy.vlm import VLM
from visplay.types import Completion, Prompt, Sampling, derive_seed


class TransformersRollout(RolloutEngine):
    """Samples with the policy's own modules: each prompt is read once, then continued ``n`` times.

    What the prompts about one image begin with is read once for all of them.

    Args:
        max_sequences: Most sequences decoded side by side.
    """

    def __init__(self, max_sequences: int = 512) -> None:
        super().__init__()
        if max_sequences < 1:
            raise ValueError(f"max_sequences: {max_sequences} must be at least 1")
        self.max_sequences = max_sequences

    def load_weights(self, policy: VLM) -> None:
        """Nothing to bring: the policy's own weights are sampled from."""

    def sample(self, policy: VLM, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Sample in batches of prompts about the same images and of similar length; the result's order is theirs."""
        batches = _cut_batches(policy, prompts, max(1, self.max_sequences // sampling.n))
        results: dict[int, list[Completion]] = {}
        device = self.device_for(policy)
        with placed(policy, device), self._compute_precision(policy, device.type):
            for rows in batches:
                results |= zip(rows, _sample_batch(policy, [prompts[row] for row in rows], sampling), strict=True)
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
    """Cut the numbers of prompts into batches; the prompts about one image stay together where they fit."""
    lengths = [policy.prompt_tokens(prompt) for prompt in prompts]
    groups = sorted(group_by_images(policy, prompts), key=lambda group: max(lengths[row] for row in group))
    batches: list[list[int]] = [[]]
    for group in groups:
        for start in range(0, len(group), size):
            piece = group[start : start + size]
            if len(batches[-1]) + len(piece) > size:
                batches.append([])
            batches[-1] += piece
    return batches


@dataclass
class _Decoded:
    """What B sequences have sampled so far: (B, T) ids and log-probabilities, (B,) lengths, (B,) whether stopped."""

    token_ids: Tensor
    logps: Tensor
    lengths: Tensor
    finished: Tensor

    @classmethod
    def empty(cls, rows: int, tokens: int, device: torch.device) -> _Decoded:
        return cls(
            torch.zeros(rows, tokens, dtype=torch.long, device=device),
            torch.zeros(rows, tokens, device=device),
            torch.zeros(rows, dtype=torch.long, device=device),
            torch.zeros(rows, dtype=torch.bool, device=device),
        )

    def append(self, rows: Tensor, tokens: Tensor, logps: Tensor, stopped: Tensor) -> None:
        place = self.lengths[rows]
        self.token_ids[rows, place] = tokens
        self.logps[rows, place] = logps
        self.lengths[rows] += 1
        self.finished[rows] = stopped


def _sample_batch(policy: VLM, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
    """Read N prompts once, then sample n completions of each, token by token."""
    keys = [(prompt.key, sample) for prompt in prompts for sample in range(sampling.n)]
    uniforms = uniform_stream([derive_seed(sampling.seed, *key) for key in keys], sampling.max_new_tokens)
    uniforms = uniforms.to(policy.device) if policy.device.type != "mps" else uniforms.float().to(policy.device)
    decoded = _Decoded.empty(len(keys), sampling.max_new_tokens, policy.device)
    _decode(policy, prompts, sampling, uniforms, decoded)
    done = _completions(policy, decoded)
    return [done[start : start + sampling.n] for start in range(0, len(done), sampling.n)]


def _decode(policy: VLM, prompts: Sequence[Prompt], sampling: Sampling, uniforms: Tensor, decoded: _Decoded) -> None:
    """Fill ``decoded``; a sequence that has stopped leaves the batch once a quarter of it has."""
    stop_ids = torch.tensor(policy.stop_token_ids, device=policy.device)
    first, context = policy.prefill(prompts)
    rows = torch.arange(len(uniforms), device=policy.device)
    hidden, context = first[rows // sampling.n], context.take(rows // sampling.n, to_sample=True)
    for step in range(sampling.max_new_tokens):
        tokens, logps = _next_tokens(policy.logits(hidden, sampling.temperature), uniforms[rows, step], sampling)
        alive = ~decoded.finished[rows]
        decoded.append(rows[alive], tokens[alive], logps[alive], torch.isin(tokens, stop_ids)[alive])
        alive = ~decoded.finished[rows]
        remaining = int(alive.sum())
        if remaining == 0 or step + 1 == sampling.max_new_tokens:
            return
        if remaining <= 0.75 * len(rows):
            kept = alive.nonzero().squeeze(1)
            context, rows, tokens = context.take(kept, to_sample=True), rows[kept], tokens[kept]
        extended, context = policy.extend(context, tokens[:, None])
        hidden = extended[:, -1]


def _next_tokens(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Next token (B,) and its log-probability (B,) before truncation."""
    if sampling.temperature == 0:
        tokens = logits.argmax(-1)
    else:
        tokens = draw_tokens(truncate_logits(logits, sampling.top_p, sampling.top_k), uniforms)
    return tokens, logits.log_softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)


def _completions(policy: VLM, decoded: _Decoded) -> list[Completion]:
    columns = zip(
        decoded.token_ids.tolist(),
        decoded.logps.tolist(),
        decoded.lengths.tolist(),
        decoded.finished.tolist(),
        strict=True,
    )
    return [
        Completion(tuple(ids[:length]), tuple(logps[:length]), policy.decode(ids[:length]), finished)
        for ids, logps, length, finished in columns
    ]
