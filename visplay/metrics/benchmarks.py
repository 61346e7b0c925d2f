"""The measures that benchmarks define for themselves."""

from __future__ import annotations

from collections.abc import Sequence

from visplay.metrics.rows import Report, RowMetric, Table, optional_column
from visplay.metrics.verdicts import JudgedMetric
from visplay.statistics.breakdown import hallusion_accuracies, mean_by_group
from visplay.statistics.intervals import Bootstrap, Estimate, estimate_mean


class HallusionBenchAccuracy(RowMetric):
    """``aAcc``, ``qAcc`` and ``fAcc`` of HallusionBench, over the rows given, see ``hallusion_accuracies``.

    Args:
        bootstrap: How the intervals are found.

    Example:
        >>> metric = HallusionBenchAccuracy()
        >>> metric.update(["a", "b"], [True, False], pairs=["p", "p"], figures=["f", "g"])
        >>> {name: measure.value for name, measure in metric.compute().measures.items()}
        {'aAcc': 0.5, 'qAcc': 0.0, 'fAcc': 0.5}
    """

    def update(
        self,
        keys: Sequence[str],
        verdicts: Sequence[bool],
        pairs: Sequence[str | None] | None = None,
        figures: Sequence[str | None] | None = None,
    ) -> None:
        """Add verdicts.

        Args:
            keys: Identity of the rows.
            verdicts: Whether each is right.
            pairs: Id of each row's question pair: category, subcategory, set and question; None if not known.
            figures: Id of each row's figure: category, subcategory, set and figure; None if not known, ``NO_FIGURE``
                where none is shown.
        """
        length = len(keys)
        self._add(keys, verdicts, pair=optional_column(pairs, length), figure=optional_column(figures, length))

    def compute(self) -> Report:
        """The three, and how many rows lack an id."""
        table = self._table()
        pairs, figures = table.column("pair"), table.column("figure")
        measures = hallusion_accuracies(table.scores, pairs, figures, self.bootstrap)
        counts = table.counts(without_pair=pairs.count(None), without_figure=figures.count(None))
        return Report(measures, counts)


class MMMUAccuracy(RowMetric):
    """``accuracy`` of MMMU, and ``discipline/...`` for each discipline.

    ``by_discipline`` is None, in place of the disciplines, where a row's is not known. ``mmmu_discipline`` reads
    disciplines off the official ids.

    Args:
        bootstrap: How the intervals are found.
    """

    def update(
        self,
        keys: Sequence[str],
        verdicts: Sequence[bool],
        disciplines: Sequence[str | None] | None = None,
        clusters: Sequence[str | None] | None = None,
    ) -> None:
        """Add verdicts.

        Args:
            keys: Identity of the rows.
            verdicts: Whether each is right.
            disciplines: The discipline of each; None if not known.
            clusters: What each shares with other rows, such as its figure; None: nothing.
        """
        names = optional_column(disciplines, len(keys))
        groups = [[name] if name else None for name in names]
        self._add(keys, verdicts, groups=groups, cluster=optional_column(clusters, len(keys)))

    def compute(self) -> Report:
        """Overall and by discipline, and how many rows lack one."""
        table = self._table()
        measures = _by_group("accuracy", "discipline", table, self.bootstrap)
        return Report(measures, table.counts(without_discipline=table.column("groups").count(None)))


class MMVetScore(JudgedMetric):
    """``score``, the mean graded score of MM-Vet, and ``capability/...`` for each capability.

    ``by_capability`` is None, in place of the capabilities, where a row's are not known. A question needs several and
    counts for each of them (Yu et al., 2023, arXiv 2308.02490). Rows that the judge gave no score for keep the rule's
    verdict and are counted, ``unjudged``.

    Args:
        bootstrap: How the intervals are found.
    """

    def update(
        self,
        keys: Sequence[str],
        rule_verdicts: Sequence[bool],
        judge_scores: Sequence[float | None],
        capabilities: Sequence[Sequence[str] | None] | None = None,
    ) -> None:
        """Add rows.

        Args:
            keys: Identity of the rows.
            rule_verdicts: Whether each is right by rule.
            judge_scores: A score in [0, 1] per row; None where judging failed.
            capabilities: What each question needs; None if not known.
        """
        names = optional_column(capabilities, len(keys))
        groups = [sorted(set(members)) if members else None for members in names]
        self._add_judged(keys, rule_verdicts, judge_scores, groups=groups, cluster=[None] * len(keys))

    def compute(self) -> Report:
        """Overall and by capability, how many rows lack one, and how many a score."""
        table = self._table()
        measures = _by_group("score", "capability", table, self.bootstrap)
        unjudged, unknown = table.column("judged").count(False), table.column("groups").count(None)
        return Report(measures, table.counts(unjudged=unjudged, without_capability=unknown))


def _by_group(whole: str, kind: str, table: Table, bootstrap: Bootstrap) -> dict[str, Estimate | None]:
    """The mean of all rows, and of the rows of each group where every row's groups are known."""
    measures: dict[str, Estimate | None] = {whole: estimate_mean(table.scores, table.clusters, bootstrap)}
    groups = mean_by_group(table.scores, table.column("groups"), table.clusters, bootstrap)
    if groups is None:
        return measures | {f"by_{kind}": None}
    return measures | {f"{kind}/{name}": mean for name, mean in groups.items()}
