"""What a step is like: its rollout before any update, and its micro-batches joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from visplay.functional.grpo.advantages import zero_variance_groups
from visplay.types import Rollout


def describe_rollout(rollout: Rollout, rewards: Tensor, kept: int) -> dict[str, float]:
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


def reduce_statistics(parts: Sequence[Mapping[str, float]], divisor: float) -> dict[str, float]:
    """Join statistics of one set of names: the maximum where a name ends in ``_max``, else the sum over a divisor.

    Example:
        >>> reduce_statistics([{"kl": 1.0, "ratio_max": 2.0}, {"kl": 2.0, "ratio_max": 1.0}], 2)
        {'kl': 1.5, 'ratio_max': 2.0}
    """
    columns = {name: [part[name] for part in parts] for name in parts[0]}
    return {n: max(values) if n.endswith("_max") else sum(values) / divisor for n, values in columns.items()}
