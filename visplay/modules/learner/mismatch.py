"""The mismatch check: no update from samples of other weights than those that are trained.

An engine reports the log-probability of every token it sampled, and the training forward computes it again. Both agree
up to rounding, or the engine has loaded something else.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from visplay.modules.policy.vlm import VLM

_HALF = (torch.float16, torch.bfloat16)
_MEAN_LIMITS = {"full": 1e-3, "half": 0.1}  # nats, by precision of the training forward
_JUMP_FLOORS = {"full": 1e-5, "half": 0.02}


class PolicyMismatchError(RuntimeError):
    """The engine's log-probabilities are not those of the policy that is trained."""


@dataclass(frozen=True)
class MismatchConfig:
    """When a gap between engine and training forward stops the run; all gaps in nats.

    Args:
        stop: Whether the run stops; false only logs.
        token_limit: Gap of a token above which ``logp_gap_beyond_fraction`` counts it.
        mean_limit: Mean gap of an update that stops the run; None goes by the precision of the training forward: 1e-3
            in float32, 0.1 where it computes in half precision or with reduced float32 matrix products.
        jump: Multiple of the median of the updates so far that stops the run; None does not look for jumps.
        jump_floor: Mean gap up to which nothing is a jump, because rounding varies; None goes by the precision: 1e-5 in
            float32, 0.02 else.
        window: Number of updates the median is taken over.

    Raises:
        ValueError: A limit is not positive, ``jump`` is not above 1, or ``window`` is below 1.
    """

    stop: bool = True
    token_limit: float = 0.5
    mean_limit: float | None = None
    jump: float | None = 10.0
    jump_floor: float | None = None
    window: int = 100

    def __post_init__(self) -> None:
        """Reject limits that mean nothing."""
        for name in ("token_limit", "mean_limit", "jump_floor"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}: {value} must be above 0, in nats")
        if self.jump is not None and not self.jump > 1:
            raise ValueError(f"jump: {self.jump} must be above 1, or null for no such check")
        if self.window < 1:
            raise ValueError(f"window: {self.window} must be at least 1")


class MismatchCheck:
    """Watches the mean gap of one learner's updates.

    Args:
        config: Settings.

    Attributes:
        accepted: Mean gaps in nats of the last updates that passed.
    """

    def __init__(self, config: MismatchConfig) -> None:
        self.config = config
        self.accepted: deque[float] = deque(maxlen=config.window)

    def check(self, policy: VLM, gap_mean: float, *, stale: bool = False) -> None:
        """Accept the gap of an update, or stop the run before the update is applied.

        Call it where the training forward ran, so that the autocast it ran under is seen.

        Args:
            policy: The policy that is about to be updated.
            gap_mean: Mean magnitude of the gaps of the update's tokens, in nats.
            stale: Whether they were sampled from weights of before the last step's updates: such a gap is no rounding,
                and has to be finite only.

        Raises:
            PolicyMismatchError: The gap is not finite, is above the limit, or is a jump.
        """
        if stale and math.isfinite(gap_mean):
            return
        reason = self._mismatch(gap_mean, precision(policy)) if self.config.stop else None
        if reason is not None:
            raise PolicyMismatchError(_explain(policy, reason))
        self.accepted.append(gap_mean)

    def _mismatch(self, gap_mean: float, computed: str) -> str | None:
        """What is wrong with a mean gap, or None."""
        c = self.config
        limit = _MEAN_LIMITS[computed] if c.mean_limit is None else c.mean_limit
        floor = _JUMP_FLOORS[computed] if c.jump_floor is None else c.jump_floor
        if not math.isfinite(gap_mean):
            return f"logp_gap_mean is {gap_mean}, so a log-probability of the engine or of the policy is not finite"
        if gap_mean > limit:
            return f"logp_gap_mean is {gap_mean:.3g} nats, above mismatch.mean_limit={limit:g} ({computed} precision)"
        if c.jump is None or not self.accepted or gap_mean <= floor:
            return None
        usual = median(self.accepted)
        if gap_mean <= c.jump * usual:
            return None
        return (
            f"logp_gap_mean is {gap_mean:.3g} nats, above mismatch.jump={c.jump:g} times the median {usual:.3g} of the "
            f"last {len(self.accepted)} updates and above mismatch.jump_floor={floor:g} ({computed} precision)"
        )


def precision(policy: VLM) -> str:
    """Precision of the training forward.

    Returns:
        "half" under an autocast to half precision, with weights in it, or where PyTorch may compute float32 matrix
        products in less (TF32); else "full".
    """
    device = policy.device.type
    if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) in _HALF:
        return "half"
    if torch.get_float32_matmul_precision() != "highest" or any(p.dtype in _HALF for p in policy.parameters()):
        return "half"
    return "full"


def _explain(policy: VLM, reason: str) -> str:
    return (
        f"{policy.name}, version {policy.version}: {reason}. The rollout engine seems to sample from other weights "
        "than are trained; this update was not applied. Check, in this order: the engine's last load and its "
        "checksums; the names that a subclass gives the engine's weights; stale caches of the engine (prefixes, "
        "images); its dtype, which mean_limit must allow for; temperature and banned tokens, which both sides must "
        "apply; its attention, where images attend both ways (vLLM on a CPU makes them causal) or within windows: "
        "`visplay check --vllm` compares them. See docs/mismatch.md"
    )
