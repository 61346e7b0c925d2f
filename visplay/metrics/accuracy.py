"""How often answers are right, by rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from visplay.functional.grading import equivalent
from visplay.functional.voting import vote


class _Share(Metric):
    """Share of answers for which a condition holds; NaN before the first one.

    Args:
        equivalence: Whether two answers say the same.
    """

    full_state_update = False
    count: Tensor
    total: Tensor

    def __init__(self, equivalence: Callable[[str, str], bool] = equivalent) -> None:
        super().__init__()
        self.equivalence = equivalence
        self.add_state("count", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[str | None], golds: Sequence[str]) -> None:
        """Add answers, None for one that did not parse, and the gold answers they belong to."""
        for prediction, gold in zip(predictions, golds, strict=True):
            self.count += self._holds(prediction, gold)
            self.total += 1

    def compute(self) -> Tensor:
        """The share in [0, 1]."""
        return self.count / self.total

    def _holds(self, prediction: str | None, gold: str) -> bool:
        raise NotImplementedError


class AnswerAccuracy(_Share):
    """Share of answers equivalent to the gold answer; one that did not parse is wrong.

    Args:
        equivalence: Whether two answers say the same.

    Example:
        >>> metric = AnswerAccuracy()
        >>> metric.update(["2.0", None], ["2", "3"])
        >>> float(metric.compute())
        0.5
    """

    def _holds(self, prediction: str | None, gold: str) -> bool:
        return prediction is not None and self.equivalence(prediction, gold)


class WrongClaimRate(_Share):
    """Share of answers that claim something, and something else than the gold answer.

    On questions about what is not in the picture this is the rate of hallucination.

    Args:
        equivalence: Whether two answers say the same.
    """

    def _holds(self, prediction: str | None, gold: str) -> bool:
        return prediction is not None and not self.equivalence(prediction, gold)


class BenchmarkMetrics:
    """What is measured on one benchmark.

    Args:
        name: Name of the benchmark.
        votes: Answers sampled per question besides the greedy one; 0 for none.
        equivalence: Whether two answers say the same.
    """

    def __init__(self, name: str, votes: int, equivalence: Callable[[str, str], bool] = equivalent) -> None:
        self.name = name
        self.votes = votes
        self.equivalence = equivalence
        self.greedy, self.wrong_claims = AnswerAccuracy(equivalence), WrongClaimRate(equivalence)
        self.sampled, self.majority = AnswerAccuracy(equivalence), AnswerAccuracy(equivalence)

    def update_greedy(self, answers: Sequence[str | None], golds: Sequence[str]) -> None:
        """Add one greedy answer per question."""
        self.greedy.update(answers, golds)
        self.wrong_claims.update(answers, golds)

    def update_sampled(self, answers: Sequence[Sequence[str | None]], golds: Sequence[str]) -> None:
        """Add K sampled answers per question; their majority is graded too."""
        for group, gold in zip(answers, golds, strict=True):
            self.sampled.update(group, [gold] * len(group))
        self.majority.update([vote(group, self.equivalence).answer for group in answers], golds)

    def compute(self) -> dict[str, float]:
        """Every measure under ``benchmark_measure``."""
        measures: dict[str, Metric] = {"greedy": self.greedy, "wrong_claims": self.wrong_claims}
        if self.votes:
            measures |= {"sampled": self.sampled, "majority": self.majority}
        return {f"{self.name}_{measure}": float(metric.compute()) for measure, metric in measures.items()}
