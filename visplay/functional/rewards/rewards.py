"""What each role is paid for, and how the parts combine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from visplay.functional.rewards.clustering import cluster, cluster_fractions, cluster_groups
from visplay.grading.equivalence import canonical_form, equivalent


def difficulty(confidence: Tensor) -> Tensor:
    """Pay for a question that splits the Reasoner: r_unc = 1 - |2c - 1| (Eq. 5).

    Args:
        confidence: Fractions of the majority answer in [0, 1], any shape.

    Returns:
        1 where the Reasoner is split in half, 0 where it is unanimous; same shape.

    Raises:
        ValueError: A confidence is outside [0, 1].

    Example:
        >>> difficulty(torch.tensor([0.5, 0.75, 1.0])).tolist()
        [1.0, 0.5, 0.0]
    """
    _check_fractions(confidence)
    return 1.0 - (2.0 * confidence - 1.0).abs()


@dataclass(frozen=True)
class TargetDifficulty:
    """Pay most for a question of a given confidence: d(c; τ) = max(0, 1 - |c - τ| / min(τ, 1 - τ)).

    Eq. 5 is τ = 1/2. With a higher τ the Questioner is paid for questions whose majority leads by more, which the
    Reasoner more often answers rightly; nothing is paid for c <= 2τ - 1.

    Args:
        target: τ, the confidence that is paid 1, inside (0, 1).

    Raises:
        ValueError: ``target`` is not inside (0, 1), or a confidence is outside [0, 1].

    Example:
        >>> TargetDifficulty(0.75)(torch.tensor([0.5, 0.625, 0.75, 1.0])).tolist()
        [0.0, 0.5, 1.0, 0.0]
    """

    target: float = 0.5

    def __post_init__(self) -> None:
        """Reject a target that leaves no room on one side."""
        if not 0 < self.target < 1:
            raise ValueError(f"target: must be inside (0, 1), got {self.target}")

    def __call__(self, confidence: Tensor) -> Tensor:
        """Pay confidences in [0, 1], any shape; the same shape, in [0, 1]."""
        _check_fractions(confidence)
        width = min(self.target, 1.0 - self.target)
        return torch.relu(1.0 - (confidence - self.target).abs() / width)


def minority_difficulty(confidence: Tensor) -> Tensor:
    """Pay for a question that splits the Reasoner as the released code does: min(c, 1 - c), half of Eq. 5.

    Args:
        confidence: Fractions of the majority answer in [0, 1], any shape.

    Returns:
        0.5 where the Reasoner is split in half, 0 where it is unanimous; same shape.

    Raises:
        ValueError: A confidence is outside [0, 1].

    Example:
        >>> minority_difficulty(torch.tensor([0.5, 0.75, 1.0])).tolist()
        [0.5, 0.25, 0.0]
    """
    _check_fractions(confidence)
    return torch.minimum(confidence, 1.0 - confidence)


def group_redundancy(texts: Sequence[Sequence[str | None]]) -> Tensor:
    """Fraction of a question's cluster in its own group: |C(x_i)| / G (Eq. 6 without its weight).

    Args:
        texts: (N, G) questions, G for each of N images; None where nothing parsed.

    Returns:
        (N, G) shares in [0, 1], float32; 0 where there is no question.

    Example:
        >>> group_redundancy([["how many", "how many", "what colour", None], ["how many", None, None, None]]).tolist()
        [[0.5, 0.5, 0.25, 0.0], [0.25, 0.0, 0.0, 0.0]]
    """
    labels = cluster_groups([_parsed(group) for group in texts])
    return torch.stack([_spread_fractions(group, own) for group, own in zip(texts, labels, strict=True)])


def batch_redundancy(texts: Sequence[Sequence[str | None]]) -> Tensor:
    """Fraction of a question's cluster in the whole batch: |C(x_i)| / (N·G), as in the released code.

    Args:
        texts: (N, G) questions, G for each of N images; None where nothing parsed.

    Returns:
        (N, G) shares in [0, 1], float32; 0 where there is no question.

    Example:
        >>> batch_redundancy([["how many", "how many", "what colour", None], ["how many", None, None, None]]).tolist()
        [[0.375, 0.375, 0.125, 0.0], [0.375, 0.0, 0.0, 0.0]]
    """
    questions = [text for group in texts for text in group]
    return _spread_fractions(questions, cluster(_parsed(questions))).view(len(texts), -1)


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


def agreement(
    answers: Sequence[str | None], silver: str, equivalence: Callable[[str, str], bool] = equivalent
) -> Tensor:
    """Find the answers that say the same as the silver answer: 1[y ≡ silver] (Eq. 10).

    Each distinct answer is graded once.

    Args:
        answers: G parsed answers; None did not parse.
        silver: The answer to agree with.
        equivalence: A symmetric relation between normalised answers.

    Returns:
        (G,) 0 or 1, float32.

    Example:
        >>> agreement(["1/2", "0.50", None, "2"], silver="0.5").tolist()
        [1.0, 1.0, 0.0, 0.0]
    """
    normalise = canonical_form(equivalence)
    forms = [None if answer is None else normalise(answer) for answer in answers]
    gold = normalise(silver)
    agrees = {form: form is not None and equivalence(form, gold) for form in dict.fromkeys(forms)}
    return torch.tensor([float(agrees[form]) for form in forms])


def agreement_rewards(agrees: Tensor, formatted: Tensor) -> Tensor:
    """Pay an answer for agreeing, as published: r = 1[y ≡ silver] (Eq. 10).

    Args:
        agrees: (N, G) 0 or 1.
        formatted: (N, G) bool, not used.

    Returns:
        (N, G) rewards, 0 or 1.
    """
    _check_same_shape(agrees=agrees, formatted=formatted)
    return agrees


def formatted_agreement_rewards(agrees: Tensor, formatted: Tensor) -> Tensor:
    """Pay an answer for agreeing and for its form, as the released code does: 0.9·match + 0.1·format.

    Args:
        agrees: (N, G) 0 or 1.
        formatted: (N, G) bool, whether the answer thinks in ``<think>`` and then is a box, see ``has_thought``.

    Returns:
        (N, G) rewards in [0, 1].

    Example:
        >>> formatted_agreement_rewards(torch.tensor([[1.0, 0.0]]), torch.tensor([[False, True]])).tolist()
        [[0.8999999761581421, 0.10000000149011612]]
    """
    _check_same_shape(agrees=agrees, formatted=formatted)
    return 0.9 * agrees + 0.1 * formatted


def _parsed(texts: Sequence[str | None]) -> list[str]:
    return [text for text in texts if text is not None]


def _spread_fractions(texts: Sequence[str | None], labels: np.ndarray) -> Tensor:
    """Fraction of all texts in each one's cluster, (n,), from the labels of those there are; 0 where there is none."""
    there = [index for index, text in enumerate(texts) if text is not None]
    shares = torch.zeros(len(texts))
    shares[there] = torch.from_numpy(cluster_fractions(labels)).float() * len(there) / len(texts)
    return shares


def _check_parts(valid: Tensor, difficulty: Tensor, redundancy: Tensor) -> None:
    _check_same_shape(valid=valid, difficulty=difficulty, redundancy=redundancy)
    if valid.dtype != torch.bool:
        raise ValueError(f"valid: must be bool, got {valid.dtype}")


def _check_same_shape(**parts: Tensor) -> None:
    shapes = [tuple(part.shape) for part in parts.values()]
    if len(shapes[0]) != 2 or len(set(shapes)) != 1:
        raise ValueError(f"{', '.join(parts)}: must share one shape (N, G), got {shapes}")


def _check_fractions(confidence: Tensor) -> None:
    outside = ~((confidence >= 0) & (confidence <= 1))
    if bool(outside.any()):
        raise ValueError(f"confidence: fractions must be in [0, 1], got {confidence[outside].tolist()}")
