"""An update that is not applied because its loss or gradient is not finite, and what says that too many were not."""

from __future__ import annotations

from typing import NamedTuple

from visplay.modules.learner.group_batch import GroupBatch
from visplay.modules.policy.vlm import VLM


class SkippedUpdate(NamedTuple):
    """An update that was not applied.

    Args:
        policy: Whose update; its weights are as they were.
        batch: The mini-batch, with the log-probabilities ``old_logps`` that its ratios refer to.
        loss: Its loss.
        grad_norm: The norm of its gradient.
        in_a_row: How many updates in a row were not applied, this one included.
    """

    policy: VLM
    batch: GroupBatch
    loss: float
    grad_norm: float
    in_a_row: int


class NonFiniteUpdateError(RuntimeError):
    """Too many updates in a row had a loss or a gradient that is not finite."""


def too_many(last: SkippedUpdate) -> NonFiniteUpdateError:
    """The error after the last of them."""
    return NonFiniteUpdateError(
        f"{last.policy.name}, version {last.policy.version}: loss {last.loss:g}, norm of the gradient "
        f"{last.grad_norm:g}; not finite in {last.in_a_row} updates in a row, which is max_skipped_updates. "
        "None of them was applied: weights and optimizer state are as they were. Look, in this order, for "
        "weights of the checkpoint that are not finite; a learning rate that is too high (ratio_max, kl and "
        "grad_norm of the steps before); float16, where bf16-mixed has the range; an advantage, a loss or a KL "
        "estimator of your own that divides by 0. See docs/health.md"
    )
