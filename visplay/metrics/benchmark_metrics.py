"""The metrics that benchmarks define for themselves."""

from __future__ import annotations

from collections.abc import Sequence

from visplay.metrics.item_metric import ItemMetric, Report, Table
from visplay.metrics.verdicts import JudgedMetric
from visplay.statistics.breakdown import hallusion_accuracies, mean_by_group
from visplay.statistics.intervals import Bootstrap, Estimate, estimate_mean


class HallusionBenchAccuracy(ItemMetric):
    """``aAcc``, ``qAcc`` and ``fAcc`` of HallusionBench, over the items given, see ``hallusion_accuracies``."""

    def update(
        self,
        keys: Sequence[str],
        verdicts: Sequence[bool],
        pairs: Sequence[str | None] | None = None,
        figures: Sequence[str | None] | None = None,
    ) -> None:
        """Add verdicts.

        Args:
            keys: Identity of the items.
            verdicts: Whether each is right.
            pairs: Id of each item's question pair: category, subcategory, set and question; None if not known.
            figures: Id of each item's figure: category, subcategory, set and figure; None if not known, ``NO_FIGURE``
                where none is shown.
        """
        self._add(keys, verdicts, pair=pairs, figure=figures)

    def compute(self) -> Report:
        """The three, and how many items lack an id."""
        table = self._table()
        pairs, figures = table.column("pair"), table.column("figure")
        counts = table.counts(without_pair=pairs.count(None), without_figure=figures.count(None))
        return Report(hallusion_accuracies(table.scores, pairs, figures, self.bootstrap), counts)


class MMMUAccuracy(ItemMetric):
    """``accuracy`` of MMMU, and ``discipline/...`` for each discipline.

    ``by_discipline`` is None, in place of the disciplines, where an item's is not known. ``mmmu_discipline`` reads
    disciplines off the official ids.
    """

    def update(
        self,
        keys: Sequence[str],
        verdicts: Sequence[bool],
        disciplines: Sequence[str | None] | None = None,
        clusters: Sequence[str | None] | None = None,
    ) -> None:
        """Add verdicts; a discipline is None if not known."""
        groups = None if disciplines is None else [[name] if name else None for name in disciplines]
        self._add(keys, verdicts, groups=groups, cluster=clusters)

    def compute(self) -> Report:
        """Overall and by discipline, and how many items lack one."""
        table = self._table()
        means = _by_group("accuracy", "discipline", table, self.bootstrap)
        return Report(means, table.counts(without_discipline=table.column("groups").count(None)))


class MMVetScore(JudgedMetric):
    """``score``, the mean graded score of MM-Vet, and ``capability/...`` for each capability.

    ``by_capability`` is None, in place of the capabilities, where an item's are not known. A question needs several and
    counts for each of them (Yu et al., 2023, arXiv 2308.02490). Items that the judge gave no score for keep the rule's
    verdict and are counted, ``unjudged``.
    """

    def update(
        self,
        keys: Sequence[str],
        rule_verdicts: Sequence[bool],
        judge_scores: Sequence[float | None],
        capabilities: Sequence[Sequence[str] | None] | None = None,
    ) -> None:
        """Add items; a score in [0, 1] is None where judging failed, what a question needs is None if not known."""
        listed = [sorted(set(names)) if names else None for names in capabilities or ()]
        self._add_judged(keys, rule_verdicts, judge_scores, groups=listed if capabilities else None, cluster=None)

    def compute(self) -> Report:
        """Overall and by capability, how many items lack one, and how many a score."""
        table = self._table()
        means = _by_group("score", "capability", table, self.bootstrap)
        unjudged, unknown = table.column("judged").count(False), table.column("groups").count(None)
        return Report(means, table.counts(unjudged=unjudged, without_capability=unknown))


def _by_group(whole: str, kind: str, table: Table, bootstrap: Bootstrap) -> dict[str, Estimate | None]:
    """The mean of all items, and of the items of each group where every item's groups are known."""
    means: dict[str, Estimate | None] = {whole: estimate_mean(table.scores, table.clusters, bootstrap)}
    groups = mean_by_group(table.scores, table.column("groups"), table.clusters, bootstrap)
    if groups is None:
        return means | {f"by_{kind}": None}
    return means | {f"{kind}/{name}": mean for name, mean in groups.items()}
