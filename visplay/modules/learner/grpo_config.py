"""Settings of one role's GRPO; every variant of the method is another value of one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

import torch
from torch import Tensor

from visplay.functional.grpo.advantages import group_advantages
from visplay.functional.grpo.losses import clipped_policy_loss, k3_kl, sequence_mean_weights
from visplay.modules.learner.mismatch import MismatchConfig


@dataclass(frozen=True)
class GRPOConfig:
    """Settings of one role's GRPO; every variant of the method is another value, a function named by its import path.

    Args:
        steps: Steps of a phase; each samples one rollout batch.
        start_from: The weights that a phase begins with: those that the last one ended with, or of the checkpoint that
            the run started from, so that the role learns anew in each iteration.
        prompts_per_step: N, prompts of a rollout batch.
        prompts_per_update: Most prompts of a mini-batch, one optimizer step each; None takes the whole rollout batch.
            What does not divide evenly, as after ``filter_zero_variance``, is spread over the mini-batches.
        group_size: G, completions per prompt.
        max_new_tokens: Most tokens of a completion.
        temperature: Sampling temperature.
        top_p: Nucleus of sampling; below 1 the log-probabilities stay those before truncation.
        top_k: Most probable tokens kept in sampling; 0 keeps all.
        learning_rate: Learning rate of AdamW, constant within a phase after the warm-up.
        learning_rate_decay: Factor in (0, 1] by which the learning rate falls from one iteration to the next.
        warmup_steps: Steps at the start of a phase over which the learning rate rises: step s, counted from 0, has the
            fraction s / ``warmup_steps`` of it, so that 1 is a first step without learning, as in the released code.
        betas: Momentum terms of AdamW.
        weight_decay: Weight decay of AdamW.
        max_grad_norm: Gradients are scaled down to this norm.
        max_skipped_updates: An update whose loss or gradient is not finite is not applied; this many in a row stop the
            run.
        advantage: Rewards (N, G) to advantages (N, G): ``group_advantages``, ``centred_advantages`` (Dr. GRPO),
            ``leave_one_out_advantages`` (RLOO).
        policy_loss: ``clipped_policy_loss``, ``sequence_policy_loss`` (GSPO), ``cispo_loss`` (CISPO).
        aggregation: Mask (B, T) to token weights (B, T): ``sequence_mean_weights``, ``token_mean_weights`` (DAPO),
            ``FixedLengthWeights`` (Dr. GRPO).
        clip_low: Ratios are clipped at 1 - ``clip_low``.
        clip_high: Ratios are clipped at 1 + ``clip_high``.
        dual_clip: Bound on what a completion of negative advantage may cost, in multiples of it; None for none.
        kl_weight: Weight of the KL divergence from the reference; 0 needs no reference.
        kl_estimator: ``k1_kl``, ``k2_kl`` or ``k3_kl``; k1 is for the reward, as a term of the loss its gradient is
            noise around 0.
        kl_reference: The policy at the start of the phase, the one that sampled the step ("old", as the paper's text
            has it), or the checkpoint that the run started from.
        kl_in: Whether the KL divergence is a term of the loss, or is charged to the reward of its completion.
        entropy_weight: Weight of the entropy bonus.
        mask_truncated: Whether completions that reached the token limit are left out of the loss; their reward counts
            in their group all the same.
        filter_zero_variance: Whether groups whose rewards are all equal are left out of the update.
        max_refills: How often at most a step samples further prompts in place of the groups left out.
        tokens_per_micro_batch: Most tokens in one forward and backward pass, each prompt counted once; one completion
            at least. A group that is longer is cut, and its prompt read again.
        mismatch: When a gap between the log-probabilities of engine and training forward stops the run.
        correction: Weights of the policy loss against such a gap: ``token_truncated_weights``,
            ``sequence_sum_weights``, ``sequence_geometric_weights``; None for none.
        correction_cap: Largest of these weights, at least 1.
        staleness: Steps by which the weights that sample may be behind: 0, or 1 to sample each step's completions on a
            server while the step before is learned from. 1 needs a ``correction``; see docs/rollouts.md.
    """

    steps: int = 20
    start_from: Literal["last_phase", "base"] = "last_phase"
    prompts_per_step: int = 512
    prompts_per_update: int | None = 128
    group_size: int = 8
    max_new_tokens: int = 2048
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    learning_rate: float = 1e-6
    learning_rate_decay: float = 1.0
    warmup_steps: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    max_skipped_updates: int = 5
    advantage: Callable[[Tensor], Any] = group_advantages
    policy_loss: Callable[..., Any] = clipped_policy_loss
    aggregation: Callable[[Tensor], Any] = sequence_mean_weights
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    kl_weight: float = 0.01
    kl_estimator: Callable[[Tensor, Tensor], Any] = k3_kl
    kl_reference: Literal["phase_start", "old", "base"] = "phase_start"
    kl_in: Literal["loss", "reward"] = "loss"
    entropy_weight: float = 0.0
    mask_truncated: bool = False
    filter_zero_variance: bool = False
    max_refills: int = 0
    tokens_per_micro_batch: int = 16384
    mismatch: MismatchConfig = MismatchConfig()
    correction: Callable[[Tensor, Tensor, float], Any] | None = None
    correction_cap: float = 2.0
    staleness: Literal[0, 1] = 0

    def __post_init__(self) -> None:
        """Reject what cannot be trained with, the functions by trying them, before the first rollout."""
        positive = ("steps", "prompts_per_step", "max_new_tokens", "tokens_per_micro_batch", "max_skipped_updates")
        for name in positive:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be at least 1")
        if self.group_size < 2:
            raise ValueError(f"group_size: {self.group_size} must be at least 2, or every advantage is 0")
        if self.temperature <= 0:
            raise ValueError(f"temperature: {self.temperature} must be above 0 to sample different completions")
        if self.prompts_per_update is not None and not 0 < self.prompts_per_update <= self.prompts_per_step:
            raise ValueError(
                f"prompts_per_update: {self.prompts_per_update} must be between 1 and prompts_per_step="
                f"{self.prompts_per_step}, or null"
            )
        if not 0 <= self.learning_rate < inf:
            raise ValueError(f"learning_rate: {self.learning_rate} must be at least 0, which learns nothing")
        for name in ("weight_decay", "kl_weight", "entropy_weight", "max_refills", "warmup_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} must not be negative")
        if not 0 < self.learning_rate_decay <= 1:
            raise ValueError(f"learning_rate_decay: {self.learning_rate_decay} must be in (0, 1]; 1 is none")
        if not self.correction_cap >= 1.0:
            raise ValueError(f"correction_cap: {self.correction_cap} must be at least 1")
        if self.staleness not in (0, 1):
            raise ValueError(f"staleness: {self.staleness} must be 0 or 1")
        if self.staleness and self.correction is None:
            raise ValueError(
                "correction: staleness=1 learns from samples of earlier weights, which one must weigh, such as "
                "visplay.functional.token_truncated_weights; got null"
            )
        if self.max_refills and not self.filter_zero_variance:
            raise ValueError(f"max_refills: {self.max_refills} refills nothing unless filter_zero_variance is true")
        if self.kl_in == "reward" and self.kl_reference == "old":
            raise ValueError("kl_reference: 'old' sampled the step, so its KL in the reward is always 0")
        self._try_functions()

    def _try_functions(self) -> None:
        """Call the functions on two completions of one token."""
        column, row = torch.zeros(2, 1), torch.zeros(1, 2)
        self.policy_loss(column, column, row[0], column + 1, **self.clips)
        tried = {
            "advantage": [self.advantage(row)],
            "aggregation": [self.aggregation(row.bool())],
            "kl_estimator": [self.kl_estimator(row, row)],
        }
        if self.correction is not None:
            tried["correction"] = list(self.correction(row, row == 0, self.correction_cap))
        for name, results in tried.items():
            shapes = [tuple(result.shape) for result in results]
            if shapes != [tuple(row.shape)] * (2 if name == "correction" else 1):
                what = "weights and kept tokens, both " if name == "correction" else ""
                raise ValueError(f"{name}: must give {what}{tuple(row.shape)} for {tuple(row.shape)}, not {shapes}")

    @property
    def clips(self) -> dict[str, float | None]:
        """What a policy loss is told besides its tensors."""
        return {"clip_low": self.clip_low, "clip_high": self.clip_high, "dual_clip": self.dual_clip}
