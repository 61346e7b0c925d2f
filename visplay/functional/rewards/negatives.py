"""What a group's own answers say against each other: rewards below 0 where consensus is weak or an answer is rare.

Rewards, agreement, shares and surprisals go in, each (N, G), and rewards (N, G) come out. The shares and surprisals are
those of ``answer_classes``, of the answers that are learned from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visplay.functional.rewards.rewards import agreement
from visplay.grading.equivalence import equivalent

_LEAST_ANSWERS = 20


def answer_classes(
    answers: Sequence[str | None], surprisals: Tensor, equivalence: Callable[[str, str], bool] = equivalent
) -> tuple[Tensor, Tensor]:
    """How common each answer of a group is, and how sure the policy was of those that say the same.

    p_i = (1/G) sum_j 1[y_j ≡ y_i], and the mean surprisal of those y_j.

    Args:
        answers: G parsed answers; None or blank did not parse: its share is 0, and its surprisal its own.
        surprisals: (G,) mean of -log p over the tokens of each completion, nats: of the tokens that were sampled, so an
            estimate of the policy's entropy along the completion.
        equivalence: A symmetric relation between normalised answers.

    Returns:
        Shares in [0, 1] and surprisals, both (G,), float32.

    Example:
        >>> shares, means = answer_classes(["2", "3", "2.0", None], torch.tensor([1.0, 4.0, 2.0, 8.0]))
        >>> shares.tolist(), means.tolist()
        ([0.5, 0.25, 0.5, 0.0], [1.5, 4.0, 1.5, 8.0])
    """
    shares, means = torch.zeros(len(answers)), surprisals.float().clone()
    same = {a: agreement(answers, a, equivalence) for a in dict.fromkeys(answers) if a is not None and a.strip()}
    for index, answer in enumerate(answers):
        if answer in same:
            members = same[answer]
            shares[index] = members.mean()
            means[index] = (members * surprisals).sum() / members.sum()
    return shares, means


@dataclass(frozen=True)
class WeakConsensus:
    """Pay every answer of a group -δ where no answer has a least share: r_i = -δ if max_j p_j < κ.

    The negative penalty of RESTRAIN (arXiv 2510.02172): below κ votes for the majority it sets rewards to 0 and
    subtracts δ from all advantages. It takes ``penalized_advantages`` besides; under others these groups, whose
    rewards are equal, have no advantage, and ``filter_zero_variance`` leaves them out. Chosen here, as what was read of
    the paper does not say them: κ as a share of all G answers, 0.25, and δ = 1.

    Args:
        least: κ, in [0, 1].
        penalty: δ, above 0.

    Raises:
        ValueError: ``least`` is no fraction, or ``penalty`` not positive.

    Example:
        >>> rewards, shares = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 1.0], [0.5, 0.5]])
        >>> WeakConsensus(least=0.75, penalty=0.5)(rewards, rewards, shares, shares).tolist()
        [[1.0, 0.0], [-0.5, -0.5]]
    """

    least: float = 0.25
    penalty: float = 1.0

    def __post_init__(self) -> None:
        """Reject what is no fraction or no penalty."""
        if not 0 <= self.least <= 1:
            raise ValueError(f"least: must be in [0, 1], got {self.least}")
        _check_penalty(self.penalty)

    def __call__(self, rewards: Tensor, agrees: Tensor, shares: Tensor, surprisals: Tensor) -> Tensor:
        """Penalize whole groups, (N, G); ``agrees`` and ``surprisals`` are not used."""
        weak = shares.amax(1, keepdim=True) < self.least
        return torch.where(weak, torch.full_like(rewards, -self.penalty), rewards)


@dataclass(frozen=True)
class RareAnswers:
    """Pay an answer -δ that is rare and of which the policy was unsure: p_i < τ and H_i >= mean_j H_j.

    The negative pseudo-labels of SCRL (arXiv 2603.19880), in its code with τ = 0.125, δ = 1 and 32 answers; never the
    label's, and none that did not parse. H is the mean over the answers that say the same. SCRL takes the mean entropy
    of the tokens' distributions; here it is their surprisal, which every engine reports. SCRL's published run scales
    the penalty by τ - p and adds an entropy term; this is its binary form.

    Args:
        below: τ, in (0, 1].
        penalty: δ, above 0.

    Raises:
        ValueError: ``below`` is no share, ``penalty`` not positive, or a group has fewer than 20 answers: an answer
            given once or twice would be no small share of them.
    """

    below: float = 0.125
    penalty: float = 1.0

    def __post_init__(self) -> None:
        """Reject what is no share or no penalty."""
        if not 0 < self.below <= 1:
            raise ValueError(f"below: must be in (0, 1], got {self.below}")
        _check_penalty(self.penalty)

    def __call__(self, rewards: Tensor, agrees: Tensor, shares: Tensor, surprisals: Tensor) -> Tensor:
        """Penalize single answers, (N, G)."""
        if rewards.shape[1] < _LEAST_ANSWERS:
            raise ValueError(f"group_size: shares need {_LEAST_ANSWERS} answers at least, got {rewards.shape[1]}")
        unsure = surprisals >= surprisals.mean(1, keepdim=True)
        rare = (agrees == 0) & (shares > 0) & (shares < self.below) & unsure
        return torch.where(rare, torch.full_like(rewards, -self.penalty), rewards)


def _check_penalty(penalty: float) -> None:
    if not penalty > 0:
        raise ValueError(f"penalty: must be above 0, got {penalty}")
