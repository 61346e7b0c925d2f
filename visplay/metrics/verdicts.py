"""Accuracy of one verdict per item, by rule or by a judge, and of K verdicts per item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from visplay.metrics.item_metric import ItemMetric, Report
from visplay.statistics.intervals import DEFAULT_BOOTSTRAP, Bootstrap, estimate_mean
from visplay.statistics.raters import final_score


class ItemFraction(ItemMetric):
    """Fraction of items for which something holds, under the name that a subclass gives."""

    metric: str

    def update(
        self, keys: Sequence[str], verdicts: Sequence[bool], clusters: Sequence[str | None] | None = None
    ) -> None:
        """Add verdicts: whether it holds for each item."""
        self._add(keys, verdicts, cluster=clusters)

    def compute(self) -> Report:
        """The fraction with its interval."""
        table = self._table()
        return Report({self.metric: estimate_mean(table.scores, table.clusters, self.bootstrap)}, table.counts())


class RuleAccuracy(ItemFraction):
    """Fraction of items that are right by rule: ``rule_accuracy``.

    Example:
        >>> metric = RuleAccuracy()
        >>> metric.update(["a", "b"], [True, False])
        >>> metric.update(["b"], [False])  # padding: counts once
        >>> metric.compute().metrics["rule_accuracy"].value
        0.5
    """

    metric = "rule_accuracy"


class WrongClaims(ItemFraction):
    """Fraction of items whose answer claims something, and something wrong: ``wrong_claims``.

    On questions about what is not in the image this is the rate of hallucination.
    """

    metric = "wrong_claims"


class JudgedMetric(ItemMetric):
    """Keeps a judge's score per item, or the rule's verdict where there is none.

    Of the results of an item that came again one that is judged wins over one that is not.
    """

    def _add_judged(
        self, keys: Sequence[str], rule_verdicts: Sequence[bool], judge_scores: Sequence[float | None], **columns: Any
    ) -> None:
        scores = [final_score(rule, judged) for rule, judged in zip(rule_verdicts, judge_scores, strict=True)]
        self._add(keys, scores, judged=[score is not None for score in judge_scores], **columns)

    def _preference(self, item: dict[str, Any]) -> tuple:
        return (not item["judged"], item["score"])


class JudgeAccuracy(JudgedMetric):
    """Mean verdict of a judge: ``judge_accuracy``. Items without one keep the rule's and are counted, ``unjudged``."""

    def update(
        self,
        keys: Sequence[str],
        rule_verdicts: Sequence[bool],
        judge_scores: Sequence[float | None],
        clusters: Sequence[str | None] | None = None,
    ) -> None:
        """Add items; a judge's verdict, or score in [0, 1], is None where judging failed."""
        self._add_judged(keys, rule_verdicts, judge_scores, cluster=clusters)

    def compute(self) -> Report:
        """The mean with its interval."""
        table = self._table()
        accuracy = estimate_mean(table.scores, table.clusters, self.bootstrap)
        return Report({"judge_accuracy": accuracy}, table.counts(unjudged=table.column("judged").count(False)))


class SampledAccuracy(ItemMetric):
    """``pass@1``, the mean fraction of K samples that are right, and ``majority@K``, that of their majority.

    The first is the unbiased estimate of pass@1 (Chen et al., 2021, arXiv 2107.03374).

    Args:
        samples: K.
        bootstrap: How the intervals are found.
    """

    def __init__(self, samples: int, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP) -> None:
        super().__init__(bootstrap)
        if samples < 1:
            raise ValueError(f"samples: must be at least 1, got {samples}")
        self.samples = samples

    def update(
        self,
        keys: Sequence[str],
        verdicts: Sequence[Sequence[bool]],
        majorities: Sequence[bool],
        clusters: Sequence[str | None] | None = None,
    ) -> None:
        """Add items.

        Args:
            keys: Identity of the items.
            verdicts: K verdicts per item; a sample that did not parse is wrong.
            majorities: Whether the majority of each item's samples is right; wrong where none parsed.
            clusters: What each shares with other items.

        Raises:
            ValueError: An item has another number of verdicts than K.
        """
        for key, group in zip(keys, verdicts, strict=True):
            if len(group) != self.samples:
                raise ValueError(f"verdicts: need {self.samples} per item, got {len(group)} for item {key!r}")
        fractions = [sum(group) / self.samples for group in verdicts]
        self._add(keys, fractions, majority=[float(majority) for majority in majorities], cluster=clusters)

    def compute(self) -> Report:
        """Both with their intervals."""
        table = self._table()
        columns = {"pass@1": table.scores, f"majority@{self.samples}": table.column("majority")}
        means = {name: estimate_mean(scores, table.clusters, self.bootstrap) for name, scores in columns.items()}
        return Report(dict(means), table.counts())

    def _preference(self, item: dict[str, Any]) -> tuple:
        return (item["score"], item["majority"])
