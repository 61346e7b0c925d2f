"""Sampling token by token: a completion that ends makes room at once for those of the next prompts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice

import torch
from torch import Tensor

from visplay.callbacks.engines.drafts import Drafts
from visplay.functional.grpo.sampling import draw_tokens, truncate_logits, uniform_stream
from visplay.modules.policy.decoding_cache import decoding_cache
from visplay.modules.policy.prefill import group_by_images
from visplay.modules.policy.vlm import VLM
from visplay.types import Completion, Prompt, Sampling, derive_seed

_REFILL_FRACTION = 0.25
"""Prompts are read when at least so much of the batch is free: a few at a time cost nearly what many do."""


class Sampler:
    """Samples the completions of N prompts, in each of several ways, with at most ``max_sequences`` under way.

    The prompts about one image are read together where they fit, and prompts of similar length one after another.

    Args:
        policy: Whose modules compute.
        prompts: N prompts.
        samplings: The ways.
        max_sequences: Most sequences under way; those of one prompt at least.
        drafts: Most tokens of a draft, see ``visplay.callbacks.engines.drafts``; no more are read at once than
            ``max_sequences``, sequences and drafts together.
    """

    def __init__(
        self,
        policy: VLM,
        prompts: Sequence[Prompt],
        samplings: Sequence[Sampling],
        max_sequences: int,
        drafts: int = 0,
    ) -> None:
        self.policy, self.prompts, self.samplings = policy, prompts, samplings
        self.draws = [(way, s.first + i) for way, s in enumerate(samplings) for i in range(s.n)]  # of each prompt
        self.most_prompts = max(1, max_sequences // len(self.draws))
        self.waiting = deque(chunk_prompts(policy, prompts, self.most_prompts))
        total, device = len(prompts) * len(self.draws), policy.device
        self.limit = max(sampling.max_new_tokens for sampling in samplings)
        self.cache = decoding_cache(policy, self.limit)
        self.drafts, self.most_tokens = (drafts, max_sequences) if self.cache.joins else (0, 0)
        self.texts = Drafts({*policy.stop_token_ids, *policy.banned_token_ids.tolist()})
        self.stop_ids = torch.tensor(policy.stop_token_ids, device=device)
        self.ids = torch.zeros(total, self.limit, dtype=torch.long, device=device)
        self.logps = torch.zeros(total, self.limit, device=device)
        self.lengths = torch.zeros(total, dtype=torch.long, device=device)
        self.finished = torch.zeros(total, dtype=torch.bool, device=device)
        # of each row under way: the number of its completion, its numbers in [0, 1), and what predicts its next token
        self.rows = torch.zeros(0, dtype=torch.long, device=device)
        self.uniforms = torch.zeros(0, self.limit, device=device)
        self.hidden = torch.zeros(0, device=device)
        self.alive = torch.zeros(0, dtype=torch.bool, device=device)
        ways = torch.tensor([way for way, _ in self.draws], device=device)
        self.ways = ways.repeat(len(prompts))  # of each completion
        self.limits = torch.tensor([s.max_new_tokens for s in samplings], device=device)[self.ways]

    def run(self) -> list[list[list[Completion]]]:
        """Sample everything; for each way, completions in the order of the prompts."""
        while self.waiting or len(self.rows):
            if self.waiting and self._has_room():
                self._admit()
            self._step()
        sampled = torch.arange(self.limit, device=self.ids.device) < self.lengths[:, None]
        ids, logps = iter(self.ids[sampled].tolist()), iter(self.logps[sampled].tolist())
        parts = (
            (tuple(islice(ids, length)), tuple(islice(logps, length)), done)
            for length, done in zip(self.lengths.tolist(), self.finished.tolist(), strict=True)
        )
        completions = (Completion(of, sure, self.policy.decode(of), done) for of, sure, done in parts)
        groups = [[list(islice(completions, s.n)) for s in self.samplings] for _ in self.prompts]
        return [[group[way] for group in groups] for way in range(len(self.samplings))]

    def _has_room(self) -> bool:
        """Whether the next prompts fit, and enough is free that reading them pays."""
        if not len(self.rows):
            return True
        return self.cache.joins and self._free >= max(len(self.waiting[0]), _REFILL_FRACTION * self.most_prompts)

    @property
    def _free(self) -> int:
        """How many prompts there is room for."""
        return self.most_prompts - -(-len(self.rows) // len(self.draws))

    def _admit(self) -> None:
        """Read as many of the waiting prompts as there is room for."""
        free, taken = self._free, list[int]()
        while self.waiting and len(taken) + len(self.waiting[0]) <= free:
            taken += self.waiting.popleft()
        first, context = self.policy.prefill([self.prompts[index] for index in taken])
        n, device = len(self.draws), first.device
        self.cache.add(context, n)
        draws = [(self.samplings[way].seed, self.prompts[i].key, number) for i in taken for way, number in self.draws]
        uniforms = uniform_stream([derive_seed(*draw) for draw in draws], self.limit)
        uniforms = uniforms.to(device) if device.type != "mps" else uniforms.float().to(device)
        rows = torch.tensor(taken, device=device)[:, None] * n + torch.arange(n, device=device)
        hidden = first.repeat_interleave(n, 0)
        self.hidden = torch.cat([self.hidden, hidden]) if len(self.rows) else hidden
        self.uniforms = torch.cat([self.uniforms.to(uniforms), uniforms])
        self.rows = torch.cat([self.rows, rows.flatten()])
        self.alive = torch.cat([self.alive, torch.ones_like(rows.flatten(), dtype=torch.bool)])
        if self.drafts:
            for index in taken:
                ids = self.prompts[index].token_ids
                self.texts.add(("prompt", index), ids)
                for row in range(index * n, index * n + n):
                    self.texts.add(row, ids[-1:])

    def _step(self) -> None:
        """Draw a token of each row that goes on, and read it."""
        tokens, logps = self._draw(self.hidden)
        alive = self.alive
        stops = torch.isin(tokens, self.stop_ids)
        self._take(self.rows[alive], tokens[alive], logps[alive])
        self.finished[self.rows[alive]] = stops[alive]
        self.alive = alive & ~stops & (self.lengths[self.rows] < self.limits[self.rows])
        left = int(self.alive.sum())
        if left < len(self.rows) and left <= self.cache.dense * len(self.rows):
            kept = _close_gaps(self.alive, left)
            self.rows, self.uniforms, self.alive = self.rows[kept], self.uniforms[kept], self.alive[kept]
            self.cache.keep(kept)
            tokens = tokens[kept]
        if left:
            self._read(tokens)

    def _read(self, tokens: Tensor) -> None:
        """Read the token of each row, and a draft behind it, of which stays what would be drawn in any case."""
        drafted = self._draft()
        hidden = self.cache.read(torch.cat([tokens[:, None], drafted.clamp(min=0)], 1))
        agreed = torch.zeros_like(self.rows)
        agrees = torch.ones_like(self.alive)
        for number, draft in enumerate(drafted.unbind(1)):
            drawn, logps = self._draw(hidden[:, number])
            agrees = agrees & (drawn == draft)
            self._take(self.rows[agrees], drawn[agrees], logps[agrees])
            agreed += agrees
        self.cache.advance(agreed + 1)
        self.hidden = hidden[torch.arange(len(agreed), device=agreed.device), agreed]

    def _take(self, rows: Tensor, tokens: Tensor, logps: Tensor) -> None:
        """Add a token to some completions."""
        at = self.lengths[rows]
        self.ids[rows, at], self.logps[rows, at] = tokens, logps
        self.lengths[rows] += 1
        if self.drafts:
            for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
                self.texts.add(row, [token])

    def _draft(self) -> Tensor:
        """A draft for each row, (B, at most ``drafts``), -1 behind its end: one token less than the row's limit."""
        most = min(self.drafts, self.most_tokens // len(self.rows) - 1)
        if most < 1:
            return self.rows[:, None][:, :0]
        left = (self.limits - self.lengths)[self.rows] - 1
        found = [
            self.texts.propose(row, min(most, room))
            for row, room in zip(self.rows.tolist(), left.tolist(), strict=True)
        ]
        width = max(map(len, found))
        padded = [draft + [-1] * (width - len(draft)) for draft in found]
        return torch.tensor(padded, dtype=torch.long, device=self.rows.device).reshape(len(found), width)

    def _draw(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Next token of each row (B,) and its log-probability (B,) before truncation, from hidden states (B, H)."""
        steps = self.lengths[self.rows].clamp(max=self.limit - 1)  # those that have ended may be drawn again, unread
        uniforms = self.uniforms.gather(1, steps[:, None]).squeeze(1)
        if len(self.samplings) == 1:
            return draw_next(self.policy, self.samplings[0], hidden, uniforms)
        tokens, logps = torch.zeros_like(self.rows), torch.zeros(len(self.rows), device=hidden.device)
        for way, sampling in enumerate(self.samplings):
            own = (self.ways[self.rows] == way).nonzero().squeeze(1)
            tokens[own], logps[own] = draw_next(self.policy, sampling, hidden[own], uniforms[own])
        return tokens, logps


def draw_next(policy: VLM, sampling: Sampling, hidden: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Next tokens (B,) and their log-probabilities (B,) before truncation, from hidden states (B, H)."""
    logits = policy.logits(hidden, sampling.temperature)
    if sampling.temperature == 0:
        tokens = logits.argmax(-1)
    else:
        tokens = draw_tokens(truncate_logits(logits, sampling.top_p, sampling.top_k), uniforms)
    return tokens, logits.log_softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)


def chunk_prompts(policy: VLM, prompts: Sequence[Prompt], size: int) -> Iterable[list[int]]:
    """Numbers of prompts to be read together, at most ``size``: those about one image, the shortest first."""
    lengths = [policy.prompt_tokens(prompt) for prompt in prompts]
    groups = sorted(group_by_images(policy, prompts), key=lambda group: max(lengths[i] for i in group))
    return [group[start : start + size] for group in groups for start in range(0, len(group), size)]


def _close_gaps(alive: Tensor, left: int) -> Tensor:
    """Numbers of the rows that are alive, (left,): the last ones take the places of those before them that are not."""
    kept = torch.arange(left, device=alive.device)
    gaps = (~alive[:left]).nonzero().squeeze(1)
    kept[gaps] = alive[left:].nonzero().squeeze(1) + left
    return kept
