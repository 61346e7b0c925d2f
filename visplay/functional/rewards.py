"""What each role is paid for, and how the parts combine."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from visplay.functional.clustering import cluster, cluster_shares
from visplay.functional.grading import equivalent, normalise_answer


def difficulty(confidence: Tensor) -> Tensor:
    """Pay for a question that splits the Reasoner: r_unc = 1 - |2c - 1| (Eq. 5).

    Args:
        confidence: Shares of the majority answer in [0, 1], any shape.

    Returns:
        1 where the Reasoner is split in half, 0 where it is unanimous; same shape.

    Raises:
        ValueError: A confidence lies outside [0, 1].

    Example:
        >>> difficulty(torch.tensor([0.5, 0.75, 1.0])).tolist()
        [1.0, 0.5, 0.0]
    """
    outside = ~((confidence >= 0) & (confidence <= 1))
    if bool(outside.any()):
        raise ValueError(f"confidence: shares must lie in [0, 1], got {confidence[outside].tolist()}")
    return 1.0 - (2.0 * confidence - 1.0).abs()


def redundancy(texts: Sequence[str], weight: float = 1.0) -> Tensor:
    """Charge a question for those of its group that say the same: r_div = weight * |C(x_i)| / G (Eq. 6).

    Args:
        texts: The G questions written for one image.
        weight: The paper's lambda.

    Returns:
        (G,) charges in (0, weight], float32.

    Example:
        >>> redundancy(["how many", "how many", "what colour", "which shape"]).tolist()
        [0.5, 0.5, 0.25, 0.25]
    """
    return torch.from_numpy(weight * cluster_shares(cluster(texts))).float()


def questioner_rewards(valid: Tensor, difficulty: Tensor, redundancy: Tensor) -> Tensor:
    """Combine a question's parts as published: r = v * ReLU(r_unc - r_div) (Eq. 8).

    Args:
        valid: (N, G) bool, whether the format parses.
        difficulty: (N, G) r_unc; ignored where not valid.
        redundancy: (N, G) r_div; ignored where not valid.

    Returns:
        (N, G) rewards in [0, 1].

    Raises:
        ValueError: The shapes differ or are not (N, G), or ``valid`` is not bool.
    """
    _check_parts(valid, difficulty, redundancy)
    rewards = torch.relu(difficulty - redundancy)
    return torch.where(valid, rewards, torch.zeros_like(rewards))


def signed_questioner_rewards(valid: Tensor, difficulty: Tensor, redundancy: Tensor) -> Tensor:
    """Combine a question's parts as the released code does: r_unc - r_div, and -1 - r_div where not valid.

    Without the ReLU a redundant question is told apart from a merely easy one, and an invalid one from both.

    Args:
        valid: (N, G) bool, whether the format parses.
        difficulty: (N, G) r_unc; ignored where not valid.
        redundancy: (N, G) r_div.

    Returns:
        (N, G) rewards in [-2, 1] for a redundancy of weight 1.

    Raises:
        ValueError: The shapes differ or are not (N, G), or ``valid`` is not bool.
    """
    _check_parts(valid, difficulty, redundancy)
    return torch.where(valid, difficulty, torch.full_like(difficulty, -1.0)) - redundancy


def agreement(answers: Sequence[str | None], silver: str) -> Tensor:
    """Pay an answer for agreeing with the silver answer: 1[y ≡ silver] (Eq. 10).

    Each distinct answer is graded once.

    Args:
        answers: G parsed answers; None did not parse.
        silver: The answer to agree with.

    Returns:
        (G,) rewards, 0 or 1, float32.

    Example:
        >>> agreement(["1/2", "0.50", None, "2"], silver="0.5").tolist()
        [1.0, 1.0, 0.0, 0.0]
    """
    forms = [None if answer is None else normalise_answer(answer) for answer in answers]
    agrees = {form: form is not None and equivalent(form, silver) for form in dict.fromkeys(forms)}
    return torch.tensor([float(agrees[form]) for form in forms])


def _check_parts(valid: Tensor, difficulty: Tensor, redundancy: Tensor) -> None:
    shapes = [tuple(part.shape) for part in (valid, difficulty, redundancy)]
    if valid.ndim != 2 or len(set(shapes)) != 1:
        raise ValueError(f"valid, difficulty, redundancy: must share one shape (N, G), got {shapes}")
    if valid.dtype != torch.bool:
        raise ValueError(f"valid: must be bool, got {valid.dtype}")
