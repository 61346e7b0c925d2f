"""The GRPO learner that both roles share: one step from rollout to update.

Left out on purpose: no critic, no value loss, no learning-rate schedule. Source: arXiv 2402.03300 and METHOD of VisPlay
(arXiv 2511.15661, Eq. 2-3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from visplay.clock import Clock
from visplay.functional.advantages import zero_variance_groups
from visplay.functional.gaps import gap_statistics, logp_gaps
from visplay.modules.learner.group_batch import GroupBatch
from visplay.modules.learner.grpo_config import GRPOConfig
from visplay.modules.learner.mismatch import MismatchCheck, PolicyMismatchError
from visplay.modules.policy.placement import HOST, move, placed
from visplay.types import Rollout, derive_seed

if TYPE_CHECKING:
    from visplay.modules.policy.vlm import VLM
    from visplay.modules.role import Judgement, Role


class StepResult(NamedTuple):
    """What a step sampled and how it went.

    Args:
        rollout: All groups that were sampled.
        judgement: Their rewards, those of groups left out of the update included.
        statistics: To log.
    """

    rollout: Rollout
    judgement: Judgement
    statistics: dict[str, float]


class GRPO:
    """One role's learner: holds the reference and makes the updates.

    Args:
        config: Settings.
        clock: Adds up the seconds of each stage.

    Attributes:
        reference: The policy that the KL divergence is measured from; None without one.
        mismatch: Stops the run where the engine does not sample from the policy.
    """

    def __init__(self, config: GRPOConfig, clock: Clock) -> None:
        self.config = config
        self.clock = clock
        self.reference: VLM | None = None
        self.mismatch = MismatchCheck(config.mismatch)

    def begin_phase(self, policy: VLM, optimizer: Optimizer, *, offload: bool = False) -> None:
        """Freeze the reference, on the host if told to, and forget the optimizer state."""
        optimizer.state.clear()
        if self.config.kl_weight == 0 or self.config.kl_reference == "old":
            self.reference = None
        elif self.config.kl_reference == "base":
            self.reference = policy.base()
        else:
            self.reference = policy.frozen_copy()
        if self.reference is not None and offload:
            move(self.reference, HOST)

    def end_phase(self, optimizer: Optimizer) -> None:
        """Let the reference and the optimizer state go."""
        optimizer.state.clear()
        self.reference = None

    def step(
        self,
        role: Role,
        items: Sequence,
        optimizer: Optimizer,
        backward: Callable[[Tensor], None],
        seed: int,
        refill: Callable[[int], Sequence] | None = None,
    ) -> StepResult:
        """Sample, judge and learn once.

        Args:
            role: Whose prompts, rewards and policy.
            items: N images or examples.
            optimizer: Of the role's policy.
            backward: Called with every micro-batch's loss.
            seed: Root of all draws of this step.
            refill: Gives as many further items, in place of groups that teach nothing.

        Raises:
            PolicyMismatchError: The engine does not sample from the policy; the update is not applied.
        """
        rollout, judgement = self._sample(role, items, seed, refill)  # (N, G) completions and rewards
        kept = self._choose(judgement.rewards, len(items))
        statistics = _describe(rollout, judgement.rewards, len(kept))
        if not kept:
            return StepResult(rollout, judgement, statistics)
        role.engine.sleep()
        with self.clock("update"):
            batch = role.collate(rollout.take(kept))  # token_ids, mask (N, G, T)
            batch = self._score_before(role.vlm, batch)  # old and reference logps (N, G, T)
            batch = batch.with_advantages(self.config.advantage(self._charge_kl(judgement.rewards[kept], batch)))
            minis = batch.split(self.config.prompts_per_update, self.config.aggregation, self.config.mask_truncated)
            updates = [self._update(role.vlm, mini, optimizer, backward) for mini in minis]
        spread = {"advantage_mean": float(batch.advantages.mean()), "advantage_std": float(batch.advantages.std())}
        return StepResult(rollout, judgement, statistics | spread | _mean(updates))

    def _sample(
        self, role: Role, items: Sequence, seed: int, refill: Callable[[int], Sequence] | None
    ) -> tuple[Rollout, Judgement]:
        """Sample and judge; where groups that teach nothing are filtered, sample others in their place."""
        rollout, judgement = self._sample_once(role, items, seed)
        for attempt in range(self.config.max_refills):
            missing = len(items) - len(self._choose(judgement.rewards, len(items)))
            if not missing or refill is None:
                break
            further, judged = self._sample_once(role, refill(missing), derive_seed(seed, "refill", attempt))
            rollout, judgement = rollout.join(further), judgement.join(judged)
        return rollout, judgement

    def _sample_once(self, role: Role, items: Sequence, seed: int) -> tuple[Rollout, Judgement]:
        with self.clock("rollout"):
            rollout = role.rollout(items, self.config.group_size, seed)
        return rollout, role.judge(items, rollout, seed)

    def _choose(self, rewards: Tensor, most: int) -> list[int]:
        """The groups to learn from, no more than were asked for."""
        if not self.config.filter_zero_variance:
            return list(range(len(rewards)))
        return (~zero_variance_groups(rewards)).nonzero().flatten()[:most].tolist()

    def _charge_kl(self, rewards: Tensor, batch: GroupBatch) -> Tensor:
        """Rewards (N, G) less the weighted divergence of each completion from the reference, in nats."""
        if self.config.kl_in == "loss" or batch.old_logps is None or batch.reference_logps is None:
            return rewards
        kl = self.config.kl_estimator(batch.old_logps.flatten(0, 1), batch.reference_logps.flatten(0, 1))
        return rewards - self.config.kl_weight * (kl.view_as(batch.mask) * batch.mask).sum(-1).to(rewards)

    @torch.no_grad()
    def _score_before(self, policy: VLM, batch: GroupBatch) -> GroupBatch:
        """Log-probabilities before the first update: of the reference, and of the policy where they are needed."""
        off_policy = len(batch.prompts) > (self.config.prompts_per_update or len(batch.prompts))
        charged = self.config.kl_in == "reward" and self.reference is not None
        return replace(
            batch,
            old_logps=self.score(policy, batch) if off_policy or charged else None,
            reference_logps=self.score(self.reference, batch) if self.reference is not None else None,
        )

    @torch.no_grad()
    def score(self, policy: VLM, batch: GroupBatch) -> Tensor:
        """Log-probabilities (N, G, T) of a batch under any policy, wherever its weights lie; 0 at padding."""
        out = torch.zeros_like(batch.sampled_logps)
        with placed(policy, out.device):
            for piece in batch.pieces(self.config.tokens_per_micro_batch):
                micro = batch.take(*piece)
                logps, _ = policy.logps(micro.prompts, micro.token_ids, micro.mask, self.config.temperature)
                out[(*piece, slice(logps.shape[-1]))] = logps
        return out

    def _update(
        self, policy: VLM, mini: GroupBatch, optimizer: Optimizer, backward: Callable[[Tensor], None]
    ) -> dict[str, float]:
        """One optimizer step on a mini-batch, its gradient summed over micro-batches."""
        parts, gaps = [], []
        for micro in mini.micro_batches(self.config.tokens_per_micro_batch):
            logps, entropies = policy.logps(
                micro.prompts,
                micro.token_ids,
                micro.mask,
                self.config.temperature,
                entropy_gradient=self.config.entropy_weight > 0,
            )
            old = logps.detach() if micro.old_logps is None else micro.old_logps
            loss, statistics = self._loss(micro, logps, old, entropies)
            backward(loss)
            parts.append(statistics)
            gaps.append(logp_gaps(old, micro.sampled_logps, micro.weights > 0))
        gap = self._watch(policy, torch.cat(gaps), optimizer)
        norm = clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], self.config.max_grad_norm)
        finite = bool(norm.isfinite())
        if finite:
            optimizer.step()
            policy.version += 1
        optimizer.zero_grad(set_to_none=True)
        gradient = {"grad_norm": float(norm), "skipped_updates": float(not finite)}
        return _sum(parts, float(mini.weights.sum())) | gap | gradient

    def _watch(self, policy: VLM, gaps: Tensor, optimizer: Optimizer) -> dict[str, float]:
        """Describe the gaps of an update; where they stop the run, leave no gradient behind."""
        statistics = gap_statistics(gaps, self.config.mismatch.token_limit)
        if not len(gaps):
            return statistics
        try:
            self.mismatch.check(policy, statistics["logp_gap_mean"])
        except PolicyMismatchError:
            optimizer.zero_grad(set_to_none=True)
            raise
        return statistics

    def _loss(
        self, micro: GroupBatch, logps: Tensor, old: Tensor, entropies: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum over a micro-batch of policy loss, KL and entropy terms; statistics add up likewise."""
        config, weights = self.config, micro.weights
        policy_loss, statistics = self._policy_loss(micro, logps, old)
        loss = policy_loss - config.entropy_weight * (entropies * weights).sum()
        reference = old if config.kl_weight and config.kl_reference == "old" else micro.reference_logps
        if reference is not None:
            kl = config.kl_estimator(logps.flatten(0, 1), reference.flatten(0, 1)).view_as(weights)
            statistics["kl"] = (kl * weights).sum().detach()
            if config.kl_in == "loss":
                loss = loss + config.kl_weight * (kl * weights).sum()
        return loss, statistics | {
            "policy_loss": policy_loss.detach(),
            "entropy": (entropies.detach() * weights).sum(),
        }

    def _policy_loss(self, micro: GroupBatch, logps: Tensor, old: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The policy term; a correction multiplies its weights, and leaves the statistics those of the tokens."""
        config, weights = self.config, micro.weights.flatten(0, 1)  # (N * G, T)
        tokens = logps.flatten(0, 1), old.flatten(0, 1), micro.advantages.flatten()
        loss, statistics = config.policy_loss(*tokens, weights, **config.clips)
        if config.correction is None:
            return loss, statistics
        log_ratios = (old - micro.sampled_logps).flatten(0, 1)
        correction, kept = config.correction(log_ratios, weights > 0, config.correction_cap)
        loss, _ = config.policy_loss(*tokens, weights * correction, **config.clips)
        return loss, statistics | {
            "correction_mean": (correction * weights).sum(),
            "correction_kept_fraction": (kept * weights).sum(),
        }


def _sum(parts: Sequence[dict[str, Tensor]], weight: float) -> dict[str, float]:
    """Join the statistics of micro-batches: maxima, the loss as it is, and means over tokens by weight."""
    columns = {name: [float(part[name]) for part in parts] for name in parts[0]}
    sums = {name: sum(values) / (weight or 1.0) for name, values in columns.items()}
    maxima = {name: max(values) for name, values in columns.items() if name.endswith("_max")}
    return sums | maxima | {"policy_loss": sum(columns["policy_loss"])}


def _mean(updates: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean over the updates of a step, or the maximum of what is one."""
    columns = {name: [part[name] for part in updates] for name in updates[0]}
    return {n: max(values) if n.endswith("_max") else sum(values) / len(values) for n, values in columns.items()}


def _describe(rollout: Rollout, rewards: Tensor, kept: int) -> dict[str, float]:
    """What a rollout looks like, before any update."""
    completions = [c for group in rollout.completions for c in group]
    flat = zero_variance_groups(rewards)
    return {
        "reward": float(rewards.mean()),
        "reward_std": float(rewards.std()),
        "zero_variance_groups": float(flat.float().mean()),
        "effective_groups": float(min(kept, int((~flat).sum()))),
        "sampled_groups": float(len(flat)),
        "completion_tokens": sum(len(c.token_ids) for c in completions) / len(completions),
        "truncated_fraction": sum(not c.finished for c in completions) / len(completions),
    }
