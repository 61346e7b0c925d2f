"""The GRPO learner that both roles share: one step from rollout to update.

Left out on purpose: no critic, no value loss, no learning-rate schedule. Source: arXiv 2402.03300 and METHOD of VisPlay
(arXiv 2511.15661, Eq. 2-3).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from visplay.clock import Clock
from visplay.functional.advantages import group_advantages, zero_variance_groups
from visplay.functional.losses import clipped_policy_loss, k3_kl
from visplay.modules.group_batch import GroupBatch
from visplay.types import Rollout

if TYPE_CHECKING:
    from visplay.modules.role import Judgement, Role
    from visplay.modules.vlm import VLM


@dataclass(frozen=True)
class GRPOConfig:
    """Settings of one role's GRPO.

    Args:
        steps: Steps of a phase; each samples one rollout batch.
        prompts_per_step: N, prompts of a rollout batch.
        prompts_per_update: Prompts of a mini-batch, one optimiser step each; None takes the whole rollout batch.
        group_size: G, completions per prompt.
        max_new_tokens: Most tokens of a completion.
        temperature: Sampling temperature.
        top_p: Nucleus of sampling; below 1 the log-probabilities stay those before truncation.
        top_k: Most probable tokens kept in sampling; 0 keeps all.
        learning_rate: Constant learning rate of AdamW.
        betas: Momentum terms of AdamW.
        weight_decay: Weight decay of AdamW.
        max_grad_norm: Gradients are scaled down to this norm.
        clip_low: Ratios are clipped at 1 - ``clip_low``.
        clip_high: Ratios are clipped at 1 + ``clip_high``.
        kl_weight: Weight of the k3 estimate of the divergence from the policy at the start of the phase.
        tokens_per_micro_batch: Padded tokens, prompt and completions, in one forward and backward pass.
    """

    steps: int = 20
    prompts_per_step: int = 512
    prompts_per_update: int | None = 128
    group_size: int = 8
    max_new_tokens: int = 2048
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    learning_rate: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl_weight: float = 0.01
    tokens_per_micro_batch: int = 16384

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        for name in ("steps", "prompts_per_step", "max_new_tokens", "tokens_per_micro_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be at least 1")
        if self.group_size < 2:
            raise ValueError(f"group_size: {self.group_size} must be at least 2, or every advantage is 0")
        if self.temperature <= 0:
            raise ValueError(f"temperature: {self.temperature} must be above 0 to sample different completions")
        if self.prompts_per_update is not None and not 0 < self.prompts_per_update <= self.prompts_per_step:
            raise ValueError(
                f"prompts_per_update: {self.prompts_per_update} must lie between 1 and prompts_per_step="
                f"{self.prompts_per_step}, or be null"
            )


class GRPO:
    """One role's learner: holds the phase-start reference and makes the updates.

    Args:
        config: Settings.
        clock: Adds up the seconds of each stage.
    """

    def __init__(self, config: GRPOConfig, clock: Clock) -> None:
        self.config = config
        self.clock = clock
        self.reference: VLM | None = None

    def begin_phase(self, policy: VLM, optimizer: Optimizer) -> None:
        """Freeze the reference at the policy as it is now, and forget the optimiser's momentum."""
        optimizer.state.clear()
        self.reference = copy.deepcopy(policy).requires_grad_(False).eval() if self.config.kl_weight > 0 else None

    def end_phase(self, optimizer: Optimizer) -> None:
        """Let the reference and the optimiser's momentum go."""
        optimizer.state.clear()
        self.reference = None

    def step(
        self, role: Role, items: Sequence, optimizer: Optimizer, backward: Callable[[Tensor], None], seed: int
    ) -> tuple[Rollout, Judgement, dict[str, float]]:
        """Sample, judge and learn once.

        Args:
            role: Whose prompts, rewards and policy.
            items: N images or examples.
            optimizer: Of the role's policy.
            backward: Called with every micro-batch's loss.
            seed: Root of all draws of this step.

        Returns:
            The rollout, the judgement and the statistics to log.
        """
        with self.clock("rollout"):
            rollout = role.rollout(items, self.config.group_size, seed)  # (N, G) completions
        judgement = role.judge(items, rollout, seed)  # rewards (N, G)
        advantages = group_advantages(judgement.rewards)  # (N, G)
        with self.clock("update"):
            batch = role.collate(rollout, advantages)  # token_ids, mask (N, G, T)
            batch = self._score_before(role.vlm, batch)  # old and reference logps (N, G, T)
            statistics = [
                self._update(role.vlm, mini, optimizer, backward)
                for mini in batch.split(self.config.prompts_per_update)
            ]
        return rollout, judgement, _mean(statistics) | _describe(rollout, judgement.rewards)

    @torch.no_grad()
    def _score_before(self, policy: VLM, batch: GroupBatch) -> GroupBatch:
        """Log-probabilities before the first update: of the reference, and of the policy if it is updated twice."""
        off_policy = len(list(batch.split(self.config.prompts_per_update))) > 1
        return replace(
            batch,
            old_logps=self._score(policy, batch) if off_policy else None,
            reference_logps=self._score(self.reference, batch) if self.reference is not None else None,
        )

    def _score(self, policy: VLM, batch: GroupBatch) -> Tensor:
        out = torch.zeros_like(batch.sampled_logps)
        start = 0
        for micro in batch.micro_batches(self.config.tokens_per_micro_batch):
            logps, _ = policy.logps(micro.prompts, micro.token_ids, micro.mask, self.config.temperature)
            out[start : start + len(micro.prompts), :, : logps.shape[-1]] = logps
            start += len(micro.prompts)
        return out

    def _update(
        self, policy: VLM, mini: GroupBatch, optimizer: Optimizer, backward: Callable[[Tensor], None]
    ) -> dict[str, float]:
        """One optimiser step on a mini-batch, its gradient summed over micro-batches."""
        totals: list[dict[str, Tensor]] = []
        for micro in mini.micro_batches(self.config.tokens_per_micro_batch):
            logps, entropies = policy.logps(micro.prompts, micro.token_ids, micro.mask, self.config.temperature)
            loss, statistics = self._loss(micro, logps, entropies)
            backward(loss)
            totals.append(statistics)
        norm = clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], self.config.max_grad_norm)
        finite = bool(norm.isfinite())
        if finite:
            optimizer.step()
            policy.version += 1
        optimizer.zero_grad(set_to_none=True)
        sums = {name: float(sum(part[name] for part in totals)) for name in totals[0] if name != "logp_gap_max"}
        gap = max(float(part["logp_gap_max"]) for part in totals)
        return sums | {"logp_gap_max": gap, "grad_norm": float(norm), "skipped_updates": float(not finite)}

    def _loss(self, micro: GroupBatch, logps: Tensor, entropies: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum over a micro-batch of the clipped policy loss and the KL term; statistics add up likewise."""
        weights = micro.weights
        old = logps.detach() if micro.old_logps is None else micro.old_logps
        policy_loss, statistics = clipped_policy_loss(
            logps.flatten(0, 1),
            old.flatten(0, 1),
            micro.advantages.flatten(),
            weights.flatten(0, 1),
            clip_low=self.config.clip_low,
            clip_high=self.config.clip_high,
        )
        loss, kl = policy_loss, logps.new_zeros(())
        if micro.reference_logps is not None:
            kl = (k3_kl(logps.flatten(0, 1), micro.reference_logps.flatten(0, 1)) * weights.flatten(0, 1)).sum()
            loss = policy_loss + self.config.kl_weight * kl
        gap = (old - micro.sampled_logps).abs() * micro.mask
        return loss, statistics | {
            "policy_loss": policy_loss.detach(),
            "kl": kl.detach(),
            "entropy": (entropies * weights).sum(),
            "logp_gap_mean": (gap * weights).sum(),
            "logp_gap_max": gap.max(),
        }


def _mean(statistics: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean over the updates of a step."""
    return {name: sum(part[name] for part in statistics) / len(statistics) for name in statistics[0]}


def _describe(rollout: Rollout, rewards: Tensor) -> dict[str, float]:
    """What a rollout looks like, before any update."""
    completions = [c for group in rollout.completions for c in group]
    return {
        "reward": float(rewards.mean()),
        "reward_std": float(rewards.std()),
        "zero_variance_groups": float(zero_variance_groups(rewards).float().mean()),
        "completion_tokens": sum(len(c.token_ids) for c in completions) / len(completions),
        "cut_off_share": sum(not c.finished for c in completions) / len(completions),
    }
