"""What is said of several benchmarks, or of two checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from visplay.metrics.item_metric import ItemMetric, Report, Table
from visplay.statistics.averages import ScoredRows, average_benchmarks
from visplay.statistics.intervals import DEFAULT_BOOTSTRAP, Bootstrap
from visplay.statistics.paired import Comparison, OnMissing, compare_paired

Side = Literal["before", "after"]


class BenchmarkAverage(ItemMetric):
    """``macro_average``, of the benchmarks' means, and ``micro_average``, of all their items."""

    identity = ("benchmark", "key")

    def update(
        self,
        benchmark: str,
        keys: Sequence[str],
        scores: Sequence[float],
        clusters: Sequence[str | None] | None = None,
    ) -> None:
        """Add items of one benchmark: a verdict, or a score in [0, 1], each; keys differ within the benchmark."""
        self._add(keys, scores, benchmark=[benchmark] * len(keys), cluster=clusters)

    def compute(self) -> Report:
        """Both averages with their intervals, and the number of benchmarks."""
        table = self._table()
        names = sorted(set(table.column("benchmark")))
        tables = {name: Table([item for item in table.items if item["benchmark"] == name], 0) for name in names}
        scored = {name: ScoredRows(part.scores, part.clusters) for name, part in tables.items()}
        return Report(dict(average_benchmarks(scored, self.bootstrap)), table.counts(benchmarks=len(names)))


class PairedComparison(ItemMetric):
    """Two checkpoints on the same items, see ``compare_paired``.

    Args:
        on_missing: ``reject`` items that only one side has, or leave them out and ``count`` them.
        bootstrap: How the interval is found.
    """

    identity = ("side", "key")

    def __init__(self, on_missing: OnMissing = "reject", bootstrap: Bootstrap = DEFAULT_BOOTSTRAP) -> None:
        super().__init__(bootstrap)
        self.on_missing: OnMissing = on_missing

    def update(
        self, side: Side, keys: Sequence[str], scores: Sequence[float], clusters: Sequence[str | None] | None = None
    ) -> None:
        """Add items of one checkpoint: a verdict, or a score in [0, 1], each.

        Raises:
            ValueError: An unknown side.
        """
        if side not in ("before", "after"):
            raise ValueError(f"side: must be 'before' or 'after', got {side!r}")
        self._add(keys, scores, side=[side] * len(keys), cluster=clusters)

    def compute(self) -> Comparison:
        """The comparison; an item's cluster is what either side says.

        Raises:
            ValueError: The sides give an item two clusters, so it is not the same item; or items are missing and
                rejected.
        """
        scores: dict[str, dict[str, float]] = {"before": {}, "after": {}}
        clusters: dict[str, str] = {}
        for item in self._table().items:
            key, cluster = item["key"], item["cluster"]
            scores[item["side"]][key] = item["score"]
            if cluster is not None and clusters.setdefault(key, cluster) != cluster:
                raise ValueError(f"clusters: item {key!r} has {clusters[key]!r} on one side, {cluster!r} on the other")
        return compare_paired(scores["before"], scores["after"], clusters, self.on_missing, self.bootstrap)
