"""One step of GRPO from rollout to update; both roles share it.

Axes: N prompts, G completions per prompt, B = N·G, T tokens of a completion, K votes on a question, V vocabulary.
Of several ranks all have the whole batch, each computes the groups that it is dealt, and sums go over all of them.
Source: arXiv 2402.03300 and VisPlay (arXiv 2511.15661, Eq. 2-3). The losses, KL estimators and corrections are in
``visplay.functional.grpo``. Left out on purpose: no critic, no value loss; within a phase the learning rate is constant
but for a warm-up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import isfinite
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from visplay.clock import Clock
from visplay.functional.grpo.advantages import zero_variance_groups
from visplay.functional.grpo.gaps import gap_statistics, logp_gaps
from visplay.modules.learner.dealing import dealt_micro_batches
from visplay.modules.learner.group_batch import GroupBatch
from visplay.modules.learner.grpo_config import GRPOConfig
from visplay.modules.learner.mismatch import MismatchCheck, PolicyMismatchError
from visplay.modules.learner.sampling_ahead import NextStep, SampledRole, SamplingAhead
from visplay.modules.learner.skipped_update import SkippedUpdate, too_many
from visplay.modules.learner.step_statistics import describe_rollout, reduce_statistics
from visplay.modules.policy.vlm import VLM
from visplay.modules.policy.weights.placement import CPU, move, placed
from visplay.modules.policy.weights.sharding import whole
from visplay.ranks import from_first, gather, sum_gradients, sum_over_ranks
from visplay.types import Engine, Judgement, Rollout, derive_seed


class LearningRole(SampledRole, Protocol):
    """What the learner needs of a role."""

    @property
    def engine(self) -> Engine:
        """The rollout engine."""

    def rollout(self, items: Sequence, n: int, seed: int) -> Rollout:
        """Sample ``n`` completions for each item."""

    def judge(self, items: Sequence, rollout: Rollout, seed: int) -> Judgement:
        """Reward every completion."""

    def collate(self, rollout: Rollout) -> GroupBatch:
        """The rollout as tensors where the policy is."""


class StepResult(NamedTuple):
    """What a step sampled and how it went.

    Args:
        rollout: All groups that were sampled.
        judgement: Their rewards, those of groups left out of the update included.
        statistics: To log.
        advantages: (N, G), not a number for groups left out of the update; None where none was learned from.
    """

    rollout: Rollout
    judgement: Judgement
    statistics: dict[str, float]
    advantages: Tensor | None = None


class GRPO:
    """One role's learner (arXiv 2402.03300): the group of completions of a prompt is the baseline, so no critic is.

    Degenerate case: a group whose rewards are all equal has no advantage; a step of such groups alone updates nothing
    but the KL term, or nothing at all with ``filter_zero_variance``. A checkpoint keeps the policy and the optimizer,
    and with ``state_dict`` the reference, unless that is the base, the mismatch check's last gaps, and what was sampled
    ahead.

    Args:
        config: Settings.
        clock: Adds up the seconds of each stage.

    Attributes:
        reference: The reference policy of the KL; None without one.
        mismatch: Stops the run where the engine does not sample from the policy.
        ahead: What was sampled for the next step while the updates of this one ran.
        on_batch: Told of every step's batch before its updates; its tensors are no copies.
        on_skipped: Told of every update that is not applied because its loss or gradient is not finite.
        skipped: How many were not applied in a row, up to now.
    """

    def __init__(self, config: GRPOConfig, clock: Clock) -> None:
        self.config = config
        self.clock = clock
        self.reference: VLM | None = None
        self.mismatch = MismatchCheck(config.mismatch)
        self.ahead = SamplingAhead()
        self.on_batch: Callable[[GroupBatch], None] | None = None
        self.on_skipped: Callable[[SkippedUpdate], None] | None = None
        self.skipped = 0
        self._iteration, self._steps = 1, 0
        self._kept_reference: dict[str, Tensor] | None = None

    def begin_phase(
        self, policy: VLM, optimizer: Optimizer, *, iteration: int = 1, offload: bool = False, continued: bool = False
    ) -> None:
        """Take the weights that a phase starts from, freeze the reference, and reset the optimizer state.

        Args:
            policy: What learns.
            optimizer: Of its weights.
            iteration: Of the run, from 1; the learning rate may fall with it.
            offload: Whether the reference is kept on the CPU.
            continued: Whether the phase goes on where ``load_state_dict`` says: the reference is the one it began with.
        """
        if not continued:
            self.end_phase(optimizer)
            self._iteration, self._steps = iteration, 0
            if self.config.start_from == "base":
                policy.start_again()
        if self.config.kl_weight and self.config.kl_reference != "old":
            self.reference = policy.base() if self.config.kl_reference == "base" else policy.frozen_copy()
            if continued and self._kept_reference is not None:
                self.reference.load_state_dict(self._kept_reference)
                self._kept_reference = None
            if offload:
                move(self.reference, CPU)

    def end_phase(self, optimizer: Optimizer) -> None:
        """Let the reference and the optimizer state go."""
        optimizer.state.clear()
        self.ahead.clear()
        self.reference = self._kept_reference = None

    def state_dict(self) -> dict[str, Any]:
        """What a step follows from besides the policy and its optimizer; the weights are no copies."""
        kept = None if self.config.kl_reference == "base" else self.reference
        return {
            "iteration": self._iteration,
            "steps": self._steps,
            "skipped": self.skipped,
            "mismatch": list(self.mismatch.accepted),
            "ahead": self.ahead.state_dict(),
            "reference": None if kept is None else dict(kept.state_dict()),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Undo ``state_dict``; the reference is taken up by the phase that is continued."""
        self._iteration, self._steps = state_dict.get("iteration", 1), state_dict["steps"]
        self.skipped = state_dict["skipped"]
        self.mismatch.accepted.clear()
        self.mismatch.accepted.extend(state_dict["mismatch"])
        self.ahead.load_state_dict(state_dict.get("ahead"))
        self._kept_reference = state_dict["reference"]

    def step(
        self,
        role: LearningRole,
        items: Sequence,
        optimizer: Optimizer,
        backward: Callable[[Tensor], None],
        seed: int,
        refill: Callable[[int], Sequence] | None = None,
        scaler: GradScaler | None = None,
        next_step: Callable[[], NextStep] | None = None,
    ) -> StepResult:
        """Sample, judge and learn once.

        Args:
            role: Whose prompts, rewards and policy.
            items: N images or examples.
            optimizer: Of the role's policy.
            backward: Called with every micro-batch's loss.
            seed: Root of all draws of this step.
            refill: Gives as many further items, in place of zero-variance groups.
            scaler: What ``backward`` and the optimizer's step scale losses by, in float16.
            next_step: Draws what the next step samples; asked only with ``staleness``.

        Raises:
            NonFiniteUpdateError: Too many updates in a row had a loss or a gradient that is not finite.
            PolicyMismatchError: The engine does not sample from the policy; the update is not applied.
        """
        config = self.config
        self._set_learning_rate(optimizer)
        rollout, judgement = self.sample(role, items, seed, refill)  # completions and rewards (N, G)
        kept = self._choose(judgement.rewards, len(items))
        statistics = describe_rollout(rollout, judgement.rewards, len(kept))
        statistics["learning_rate"] = optimizer.param_groups[0]["lr"]
        if not kept:
            return StepResult(rollout, judgement, statistics)
        role.engine.sleep()
        if config.staleness and next_step is not None:
            with self.clock("rollout"):
                self.ahead.begin(role, next_step(), config.group_size)  # from the weights of before the updates
        with self.clock("update"):
            learned = rollout.take(kept)
            self.clock.tokens["update"] += learned.completion_tokens
            batch = self._score_before(role.vlm, role.collate(learned))  # old and reference logps (N, G, T)
            advantages = config.advantage(self._charge_kl(judgement.rewards[kept], batch))  # (N, G)
            if judgement.weights is not None:
                advantages = advantages * judgement.weights[kept, None].to(advantages)
            batch = replace(batch, rewards=judgement.rewards[kept], advantages=advantages.to(batch.mask.device))
            if self.on_batch is not None:
                self.on_batch(batch)
            mini_batches = batch.mini_batches(config.prompts_per_update, config.aggregation, config.mask_truncated)
            updates = [self._update(role.vlm, mini, optimizer, backward, scaler) for mini in mini_batches]
        with self.clock("rollout"):
            self.ahead.finish()
        spread = {"advantage_mean": float(advantages.mean()), "advantage_std": float(advantages.std())}
        statistics |= spread | reduce_statistics(updates, len(updates))
        learned_with = torch.full(judgement.rewards.shape, torch.nan)
        learned_with[kept] = advantages.float().cpu()
        return StepResult(rollout, judgement, statistics, learned_with)

    def _set_learning_rate(self, optimizer: Optimizer) -> None:
        """Set the learning rate of the next step, unless it is constant."""
        warmup, decay = self.config.warmup_steps, self.config.learning_rate_decay
        if warmup or decay != 1:
            fraction = decay ** (self._iteration - 1) * (min(1.0, self._steps / warmup) if warmup else 1.0)
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * fraction
        self._steps += 1

    def sample(
        self, role: LearningRole, items: Sequence, seed: int, refill: Callable[[int], Sequence] | None
    ) -> tuple[Rollout, Judgement]:
        """Sample and judge; where zero-variance groups are left out, sample others in their place."""
        asked, root, sampled = items, seed, None
        for attempt in range(self.config.max_refills + 1):
            with self.clock("rollout"):
                ahead = None if attempt else self.ahead.take(role, asked, self.config.group_size, root)
                rollout = ahead or role.rollout(asked, self.config.group_size, root)
            judgement = _agreed(role.judge(asked, rollout, root))
            if sampled is not None:
                rollout, judgement = sampled[0].join(rollout), sampled[1].join(judgement)
            sampled = rollout, judgement
            missing = len(items) - len(self._choose(judgement.rewards, len(items)))
            if not missing or refill is None or attempt == self.config.max_refills:
                break
            asked, root = refill(missing), derive_seed(seed, "refill", attempt)
        self.clock.tokens["rollout"] += rollout.completion_tokens
        return rollout, judgement

    def _choose(self, rewards: Tensor, most: int) -> list[int]:
        """The groups to learn from, no more than were asked for."""
        if not self.config.filter_zero_variance:
            return list(range(len(rewards)))
        return (~zero_variance_groups(rewards)).nonzero().flatten()[:most].tolist()

    def _charge_kl(self, rewards: Tensor, batch: GroupBatch) -> Tensor:
        """Rewards (N, G) less the weighted KL of each completion to the reference, in nats, if the reward pays it."""
        if self.config.kl_in == "loss" or batch.old_logps is None or batch.reference_logps is None:
            return rewards
        kl = self.config.kl_estimator(batch.old_logps.flatten(0, 1), batch.reference_logps.flatten(0, 1))
        return rewards - self.config.kl_weight * (kl.view_as(batch.mask) * batch.mask).sum(-1).to(rewards)

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
        """Log-probabilities (N, G, T) of a batch under any policy, wherever its weights are; 0 at padding."""
        out = torch.zeros_like(batch.sampled_logps)
        with placed(policy, out.device):
            for index, micro in dealt_micro_batches(batch, self.config.tokens_per_micro_batch, policy.sharded):
                scored = (micro.prompts, micro.token_ids, micro.mask, self.config.temperature)
                logps, _ = policy.compute(policy.logps, *scored)
                if index is not None:
                    out[(*index, slice(logps.shape[-1]))] = logps
        return sum_over_ranks(out)

    def _update(
        self,
        policy: VLM,
        mini: GroupBatch,
        optimizer: Optimizer,
        backward: Callable[[Tensor], None],
        scaler: GradScaler | None = None,
    ) -> dict[str, float]:
        """One optimizer step on a mini-batch; none if its loss or gradient is not finite.

        The gradient is summed over micro-batches, and then over ranks, once.
        """
        config, done = self.config, []
        old_logps = torch.zeros_like(mini.sampled_logps)
        for index, micro in dealt_micro_batches(mini, config.tokens_per_micro_batch, policy.sharded):
            logps, entropies = policy.compute(
                policy.logps,
                micro.prompts,
                micro.token_ids,
                micro.mask,
                config.temperature,
                entropy_gradient=config.entropy_weight > 0,
            )  # (n, g, t)
            old = logps.detach() if micro.old_logps is None else micro.old_logps
            loss, statistics = self._loss(micro, logps, old, entropies)
            backward(loss)
            if index is None:
                continue
            done.append((float(loss.detach()), {name: float(value) for name, value in statistics.items()}))
            old_logps[(*index, slice(old.shape[-1]))] = old
        losses, parts = zip(*(part for of_rank in gather(done) for part in of_rank), strict=True)
        gap = self._check_gap(policy, mini, sum_over_ranks(old_logps), optimizer)
        weights = [p for g in optimizer.param_groups for p in g["params"]]
        sum_gradients(weights)
        if scaler is not None:
            scaler.unscale_(getattr(optimizer, "optimizer", optimizer))  # as it is under Lightning's wrapper
        norm_value = float(whole(clip_grad_norm_(weights, config.max_grad_norm)))
        loss_value = sum(losses)
        if finite := isfinite(loss_value) and isfinite(norm_value):
            optimizer.step()
            policy.version += 1
        elif scaler is not None:
            scaler.update()
        optimizer.zero_grad(set_to_none=True)
        if finite:
            self.skipped = 0
        elif scaler is None or not isfinite(loss_value) or scaler.get_scale() < 1:  # else it falls until gradients fit
            batch = replace(mini, old_logps=old_logps)
            self._skip(SkippedUpdate(policy, batch, loss_value, norm_value, self.skipped + 1))
        means = reduce_statistics(parts, float(mini.weights.sum()) or 1.0)
        means["policy_loss"] = sum(part["policy_loss"] for part in parts)  # the loss as it is, no mean of tokens
        return means | gap | {"grad_norm": norm_value, "skipped_updates": float(not finite)}

    def _check_gap(self, policy: VLM, mini: GroupBatch, old_logps: Tensor, optimizer: Optimizer) -> dict[str, float]:
        """Statistics of the gaps between engine and training forward; stops the run where they are no rounding."""
        counted = mini.weights > 0
        gaps = logp_gaps(old_logps, mini.sampled_logps, counted)
        gap = gap_statistics(gaps, self.config.mismatch.token_limit)
        try:
            # where the policy's own are not finite the loss is not either, and the engine has no part in it
            if len(gaps) and (isfinite(gap["logp_gap_mean"]) or bool(old_logps[counted].isfinite().all())):
                self.mismatch.check(policy, gap["logp_gap_mean"], stale=self.ahead.stale)
        except PolicyMismatchError:
            optimizer.zero_grad(set_to_none=True)
            raise
        return gap

    def _skip(self, update: SkippedUpdate) -> None:
        """Tell of an update that was not applied, and stop the run where it is one too many in a row."""
        self.skipped = update.in_a_row
        if self.on_skipped is not None:
            self.on_skipped(update)
        if self.skipped >= self.config.max_skipped_updates:
            raise too_many(update)

    def _loss(
        self, micro: GroupBatch, logps: Tensor, old: Tensor, entropies: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum over a micro-batch of policy loss, KL and entropy terms; statistics add up likewise.

        A correction multiplies the weights of the policy loss, and leaves the statistics those of the tokens.
        """
        config, weights = self.config, micro.weights.flatten(0, 1)  # (B, T)
        logps, old, entropies = logps.flatten(0, 1), old.flatten(0, 1), entropies.flatten(0, 1)
        advantages = micro.advantages.flatten()  # (B,)
        policy_loss, statistics = config.policy_loss(logps, old, advantages, weights, **config.clips)
        if config.correction is not None:
            log_ratios = old - micro.sampled_logps.flatten(0, 1)
            correction, kept = config.correction(log_ratios, weights > 0, config.correction_cap)
            policy_loss, _ = config.policy_loss(logps, old, advantages, weights * correction, **config.clips)
            statistics["correction_mean"] = (correction * weights).sum()
            statistics["correction_kept_fraction"] = (kept * weights).sum()
        loss = policy_loss - config.entropy_weight * (entropies * weights).sum()
        reference: Tensor | None = old
        if config.kl_reference != "old" or not config.kl_weight:
            reference = None if micro.reference_logps is None else micro.reference_logps.flatten(0, 1)
        if reference is not None:
            kl = (config.kl_estimator(logps, reference) * weights).sum()
            statistics["kl"] = kl.detach()
            if config.kl_in == "loss":
                loss = loss + config.kl_weight * kl
        statistics["policy_loss"] = policy_loss.detach()
        statistics["entropy"] = (entropies.detach() * weights).sum()
        return loss, statistics


def _agreed(judgement: Judgement) -> Judgement:
    """The judgement with the rewards and weights of rank 0: all ranks must decide alike what to learn from."""

    def found() -> dict[str, Any]:
        weights = None if judgement.weights is None else judgement.weights.cpu()
        return {"rewards": judgement.rewards.cpu(), "statistics": judgement.statistics, "weights": weights}

    return replace(judgement, **from_first(found))
