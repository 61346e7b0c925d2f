"""EvoLMM (arXiv 2511.16672): rewards that are continuous in how much the Reasoner agrees with itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, log

import torch
from torch import Tensor

from visplay.types import Question, Vote


@dataclass(frozen=True)
class EntropyBandPass:
    """Pay for a question whose votes have an entropy near a centre: exp(-(H - centre)² / (2 width²)).

    Args:
        centre: The entropy H that is paid 1, in nats.
        width: Distance from it at which exp(-1/2) is paid, in nats.

    Raises:
        ValueError: ``width`` is not positive.

    Example:
        >>> split = Vote("2", 0.5, (("2", 2), ("3", 1), ("4", 1)), 4, 4)  # H = 1.04
        >>> round(EntropyBandPass()([[None]], [[split]], str.__eq__).item(), 3)
        0.923
    """

    centre: float = 0.9
    width: float = 0.35

    def __post_init__(self) -> None:
        """Reject a band without width."""
        if not self.width > 0:
            raise ValueError(f"width: must be positive, got {self.width}")

    def __call__(
        self,
        questions: Sequence[Sequence[Question | None]],
        votes: Sequence[Sequence[Vote | None]],
        equivalence: Callable[[str, str], bool],
    ) -> Tensor:
        """Pay for the votes (N, G), whatever the questions say; see ``visplay.functional.QuestionJudge``."""
        return torch.tensor([[self._pay(vote) for vote in group] for group in votes])

    def _pay(self, vote: Vote | None) -> float:
        shares = [] if vote is None else [count / vote.parsed for _, count in vote.counts]
        entropy = -sum(share * log(share) for share in shares)
        return exp(-((entropy - self.centre) ** 2) / (2 * self.width**2))


@dataclass(frozen=True)
class SoftAgreement:
    r"""Pay an answer for how many of its group agree with it, less for many words: p^exponent (1 - weight · excess).

    The excess is max(0, w - target_words) / target_words, at most 1; w is the number of words before the last box.

    Args:
        exponent: Below 1 it makes the difference between a few and many that agree smaller.
        length_weight: What twice the words and more cost, as a fraction of the reward.
        target_words: Words that cost nothing.

    Example:
        >>> texts = [[r"so \boxed{2}", "one two three four five six seven eight nine \\boxed{2}"]]
        >>> SoftAgreement(exponent=0.5)(texts, torch.tensor([[0.25, 0.25]])).tolist()
        [[0.5, 0.4749999940395355]]
    """

    exponent: float = 0.7
    length_weight: float = 0.1
    target_words: int = 6

    def __post_init__(self) -> None:
        """Reject what no word can be compared with."""
        if self.target_words < 1:
            raise ValueError(f"target_words: {self.target_words} must be at least 1")

    def __call__(self, texts: Sequence[Sequence[str]], shares: Tensor) -> Tensor:
        """Pay for shares (N, G) of completions (N, G); see ``visplay.functional.GroupReward``."""
        words = torch.tensor([[len(text.rsplit("\\boxed{", 1)[0].split()) for text in group] for group in texts])
        excess = ((words - self.target_words) / self.target_words).clamp(0, 1)
        return shares**self.exponent * (1 - self.length_weight * excess)
