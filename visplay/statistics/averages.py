"""Averages over benchmarks: of their means (macro), or of all their items (micro). The two are different quantities."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from visplay.statistics.intervals import DEFAULT_BOOTSTRAP, Bootstrap, Estimate, bootstrap_means, percentile_interval
from visplay.types import derive_seed


class ScoredRows(NamedTuple):
    """The items of one benchmark.

    Args:
        scores: n scores.
        clusters: n names of what items share, or None if they share nothing.
    """

    scores: Sequence[float]
    clusters: Sequence[Hashable] | None = None


def average_benchmarks(
    benchmarks: Mapping[str, ScoredRows], bootstrap: Bootstrap = DEFAULT_BOOTSTRAP
) -> dict[str, Estimate]:
    """Average M benchmarks of n_m items with mean a_m, plainly and weighted by their items.

    ``macro_average`` is (1/M) sum_m a_m, ``micro_average`` is (sum_m n_m a_m) / (sum_m n_m). Each benchmark is
    resampled by itself, with a seed that follows from its name.

    Args:
        benchmarks: The items of each benchmark by its name, at least one each.
        bootstrap: How the intervals are found.

    Returns:
        Both averages, of size M and sum_m n_m; empty without a benchmark.

    Raises:
        ValueError: A benchmark has no items.
    """
    empty = sorted(name for name, items in benchmarks.items() if not len(items.scores))
    if empty:
        raise ValueError(f"benchmarks: each needs at least one item, got none of {empty}")
    if not benchmarks:
        return {}
    names = sorted(benchmarks)
    means = np.array([np.mean(benchmarks[name].scores) for name in names])
    draws = []  # M times (R,) means, the same whichever other benchmarks there are
    for name in names:
        own = replace(bootstrap, seed=derive_seed(bootstrap.seed, "bootstrap", name))
        draws.append(bootstrap_means(benchmarks[name].scores, benchmarks[name].clusters, own))
    sizes = np.array([len(benchmarks[name].scores) for name in names])
    weighings = {"macro_average": (np.ones(len(names)), len(names)), "micro_average": (sizes, int(sizes.sum()))}
    return {
        name: Estimate(
            float(np.average(means, weights=weights)),
            *percentile_interval(np.average(np.stack(draws), axis=0, weights=weights), bootstrap.level),
            size,
        )
        for name, (weights, size) in weighings.items()
    }
