"""Accuracy of one verdict per row, by rule or by a judge, and of K verdicts per row."""

from __future__ import annotations

from collections.abc import Sequence

from visplay.metrics.rows import Report, Row, RowMetric, optional_column
from visplay.statistics.intervals import DEFAULT_BOOTSTRAP, Bootstrap, estimate_mean
from visplay.statistics.raters import final_score


class _Share(RowMetric):
    """Fraction of rows for which something holds.

    Args:
        bootstrap: How the interval is found.
    """

    measure: str

    def update(
        self, keys: Sequence[str], verdicts: Sequence[bool], clusters: Sequence[str | None] | None = None
    ) -> None:
        """Add verdicts.

        Args:
            keys: Identity of the rows.
            verdicts: Whether it holds for each.
            clusters: What each shares with other rows, such as its figure; None: nothing.
        """
        self._add(keys, verdicts, cluster=optional_column(clusters, len(keys)))

    def compute(self) -> Report:
        """The share with its interval."""
        table = self._table()
        return Report({self.measure: estimate_mean(table.scores, table.clusters, self.bootstrap)}, table.counts())


class RuleAccuracy(_Share):
    """Fraction of rows that are right by rule: ``rule_accuracy``.

    Args:
        bootstrap: How the interval is found.

    Example:
        >>> metric = RuleAccuracy()
        >>> metric.update(["a", "b"], [True, False])
        >>> metric.update(["b"], [False])  # padding: counts once
        >>> metric.compute().measures["rule_accuracy"].value
        0.5
    """

    measure = "rule_accuracy"


class WrongClaims(_Share):
    """Fraction of rows whose answer claims something, and something wrong: ``wrong_claims``.

    On questions about what is not in the image this is the rate of hallucination.

    Args:
        bootstrap: How the interval is found.
    """

    measure = "wrong_claims"


class JudgedMetric(RowMetric):
    """Keeps a judge's score per row, or the rule's verdict where there is none.

    Of the results of a row that came again one that is judged wins over one that is not.

    Args:
        bootstrap: How intervals are found.
    """

    def _add_judged(
        self,
        keys: Sequence[str],
        rule_verdicts: Sequence[bool],
        judge_scores: Sequence[float | None],
        **columns: Sequence,
    ) -> None:
        scores = [final_score(rule, judged) for rule, judged in zip(rule_verdicts, judge_scores, strict=True)]
        self._add(keys, scores, judged=[score is not None for score in judge_scores], **columns)

    def _preference(self, row: Row) -> tuple:
        return (not row["judged"], row["score"])


class JudgeAccuracy(JudgedMetric):
    """Mean verdict of a judge: ``judge_accuracy``. Rows it gave none for keep the rule's and are counted, ``unjudged``.

    Args:
        bootstrap: How the interval is found.

    Example:
        >>> metric = JudgeAccuracy()
        >>> metric.update(["a", "b"], rule_verdicts=[False, True], judge_scores=[True, None])
        >>> report = metric.compute()
        >>> report.measures["judge_accuracy"].value, report.counts["unjudged"]
        (1.0, 1)
    """

    def update(
        self,
        keys: Sequence[str],
        rule_verdicts: Sequence[bool],
        judge_scores: Sequence[float | None],
        clusters: Sequence[str | None] | None = None,
    ) -> None:
        """Add rows.

        Args:
            keys: Identity of the rows.
            rule_verdicts: Whether each is right by rule.
            judge_scores: A verdict, or a score in [0, 1], per row; None where judging failed.
            clusters: What each shares with other rows, such as its figure; None: nothing.
        """
        self._add_judged(keys, rule_verdicts, judge_scores, cluster=optional_column(clusters, len(keys)))

    def compute(self) -> Report:
        """The mean with its interval."""
        table = self._table()
        accuracy = estimate_mean(table.scores, table.clusters, self.bootstrap)
        return Report({"judge_accuracy": accuracy}, table.counts(unjudged=table.column("judged").count(False)))


class SampledAccuracy(RowMetric):
    """``pass@1``, the mean fraction of K samples that are right, and ``majority@K``, that of their majority.

    The first is the unbiased estimate of pass@1 (Chen et al., 2021, arXiv 2107.03374).

    Args:
        samples: K.
        bootstrap: How the intervals are found.

    Example:
        >>> metric = SampledAccuracy(samples=3)
        >>> metric.update(["a"], [[True, True, False]], [True])
        >>> {name: round(measure.value, 3) for name, measure in metric.compute().measures.items()}
        {'pass@1': 0.667, 'majority@3': 1.0}
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
        """Add rows.

        Args:
            keys: Identity of the rows.
            verdicts: K verdicts per row; a sample that did not parse is wrong.
            majorities: Whether the majority of each row's samples is right; wrong where none parsed.
            clusters: What each shares with other rows, such as its figure; None: nothing.

        Raises:
            ValueError: A row has another number of verdicts than K.
        """
        for key, group in zip(keys, verdicts, strict=True):
            if len(group) != self.samples:
                raise ValueError(f"verdicts: need {self.samples} per row, got {len(group)} for row {key!r}")
        shares = [sum(group) / self.samples for group in verdicts]
        right = [float(majority) for majority in majorities]
        self._add(keys, shares, majority=right, cluster=optional_column(clusters, len(keys)))

    def compute(self) -> Report:
        """Both with their intervals."""
        table = self._table()
        columns = {"pass@1": table.scores, f"majority@{self.samples}": table.column("majority")}
        measures = {name: estimate_mean(scores, table.clusters, self.bootstrap) for name, scores in columns.items()}
        return Report(dict(measures), table.counts())

    def _preference(self, row: Row) -> tuple:
        return (row["score"], row["majority"])
