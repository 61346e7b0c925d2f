"""What is said of several benchmarks, or of two checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from visplay.metrics.rows import Report, RowMetric, Table, optional_column
from visplay.statistics.averages import ScoredRows, average_benchmarks
from visplay.statistics.intervals import DEFAULT_BOOTSTRAP, Bootstrap
from visplay.statistics.paired import Comparison, OnMissing, compare_paired

Side = Literal["before", "after"]


class BenchmarkAverage(RowMetric):
    """``macro_average``, of the benchmarks' means, and ``micro_average``, of all their rows.

    Args:
        bootstrap: How the intervals are found.

    Example:
        >>> metric = BenchmarkAverage()
        >>> metric.update("large", ["a", "b", "c"], [1.0, 1.0, 1.0])
        >>> metric.update("small", ["a"], [0.0])
        >>> {name: measure.value for name, measure in metric.compute().measures.items()}
        {'macro_average': 0.5, 'micro_average': 0.75}
    """

    identity = ("benchmark", "key")

    def update(
        self,
        benchmark: str,
        keys: Sequence[str],
        scores: Sequence[float],
        clusters: Sequence[str | None] | None = None,
    ) -> None:
        """Add rows of one benchmark.

        Args:
            benchmark: Its name.
            keys: Identity of the rows within the benchmark.
            scores: A verdict, or a score in [0, 1], per row.
            clusters: What each shares with other rows, such as its figure; None: nothing.
        """
        names = [benchmark] * len(keys)
        self._add(keys, scores, benchmark=names, cluster=optional_column(clusters, len(keys)))

    def compute(self) -> Report:
        """Both averages with their intervals, and the number of benchmarks."""
        table = self._table()
        names = sorted(set(table.column("benchmark")))
        tables = {name: Table([row for row in table.rows if row["benchmark"] == name], 0) for name in names}
        scored = {name: ScoredRows(part.scores, part.clusters) for name, part in tables.items()}
        measures = average_benchmarks(scored, self.bootstrap)
        return Report(dict(measures), table.counts(benchmarks=len(names)))


class PairedComparison(RowMetric):
    """Two checkpoints on the same rows, see ``compare_paired``.

    Args:
        on_missing: ``reject`` rows that only one side has, or leave them out and ``count`` them.
        bootstrap: How the interval is found.

    Example:
        >>> metric = PairedComparison()
        >>> metric.update("before", ["a", "b"], [False, True])
        >>> metric.update("after", ["b", "a"], [True, True])
        >>> metric.compute().difference.value
        0.5
    """

    identity = ("side", "key")

    def __init__(self, on_missing: OnMissing = "reject", bootstrap: Bootstrap = DEFAULT_BOOTSTRAP) -> None:
        super().__init__(bootstrap)
        self.on_missing: OnMissing = on_missing

    def update(
        self, side: Side, keys: Sequence[str], scores: Sequence[float], clusters: Sequence[str | None] | None = None
    ) -> None:
        """Add rows of one checkpoint.

        Args:
            side: Which of the two.
            keys: Identity of the rows.
            scores: A verdict, or a score in [0, 1], per row.
            clusters: What each shares with other rows, such as its figure; None: nothing.

        Raises:
            ValueError: An unknown side.
        """
        if side not in ("before", "after"):
            raise ValueError(f"side: must be 'before' or 'after', got {side!r}")
        self._add(keys, scores, side=[side] * len(keys), cluster=optional_column(clusters, len(keys)))

    def compute(self) -> Comparison:
        """The comparison; a row's cluster is what either side says.

        Raises:
            ValueError: The sides give a row two clusters, so it is not the same row; or rows are missing and rejected.
        """
        scores: dict[str, dict[str, float]] = {"before": {}, "after": {}}
        clusters: dict[str, str] = {}
        for row in self._table().rows:
            key, cluster = row["key"], row["cluster"]
            scores[row["side"]][key] = row["score"]
            if cluster is not None and clusters.setdefault(key, cluster) != cluster:
                raise ValueError(f"clusters: row {key!r} has {clusters[key]!r} on one side, {cluster!r} on the other")
        return compare_paired(scores["before"], scores["after"], clusters, self.on_missing, self.bootstrap)
