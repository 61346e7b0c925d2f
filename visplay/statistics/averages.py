"""Averages over benchmarks: of their means (macro), or of all their rows (micro). The two are different quantities."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from visplay.statistics.intervals import (
    DEFAULT_BOOTSTRAP,
    Bootstrap,
    Estimate,
    bootstrap_means,
    percentile_interval,
)
from visplay.types import derive_seed


class ScoredRows(NamedTuple):
    """The rows of one benchmark.

    Args:
        scores: n scores.
        clusters: n names of what rows share, or None if they share nothing.
    """

    scores: Sequence[float]
    clusters: Sequence[Hashable] | None = None


def average_benchmarks(
    benchmarks: Mapping[str, ScoredRows], bootstrap: Bootstrap = DEFAULT_BOOTSTRAP
) -> dict[str, Estimate]:
    """Average M benchmarks of n_m rows with mean a_m, plainly and weighted by their rows.

    ``macro_average`` is (1/M) sum_m a_m, ``micro_average`` is (sum_m n_m a_m) / (sum_m n_m). Each benchmark is
    resampled by itself, with a seed that follows from its name.

    Args:
        benchmarks: The rows of each benchmark under its name, at least one row each.
        bootstrap: How the intervals are found.

    Returns:
        Both averages; the size of the macro average is M, that of the micro average the number of rows. Empty without a
        benchmark.

    Raises:
        ValueError: A benchmark has no rows.

    Example:
        >>> averages = average_benchmarks({"large": ScoredRows([1.0, 1.0, 1.0]), "small": ScoredRows([0.0])})
        >>> averages["macro_average"].value, averages["micro_average"].value
        (0.5, 0.75)
    """
    empty = sorted(name for name, rows in benchmarks.items() if not len(rows.scores))
    if empty:
        raise ValueError(f"benchmarks: each needs at least one row, got none of {empty}")
    if not benchmarks:
        return {}
    names = sorted(benchmarks)
    means = np.array([np.mean(benchmarks[name].scores) for name in names])
    draws = np.stack([_resample(name, benchmarks[name], bootstrap) for name in names])
    sizes = np.array([len(benchmarks[name].scores) for name in names])
    weighings = {"macro_average": (np.ones(len(names)), len(names)), "micro_average": (sizes, int(sizes.sum()))}
    return {
        name: Estimate(
            float(np.average(means, weights=weights)),
            *percentile_interval(np.average(draws, axis=0, weights=weights), bootstrap.level),
            size,
        )
        for name, (weights, size) in weighings.items()
    }


def _resample(name: str, rows: ScoredRows, bootstrap: Bootstrap) -> np.ndarray:
    """(R,) bootstrap means of one benchmark, the same whichever benchmarks stand beside it."""
    own = replace(bootstrap, seed=derive_seed(bootstrap.seed, "bootstrap", name))
    return bootstrap_means(rows.scores, rows.clusters, own)
