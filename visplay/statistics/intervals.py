"""Bootstrap intervals of a mean, resampling items or, where items share a figure or a question, whole clusters.

Items of one cluster are right or wrong together, so that resampling items one by one would make intervals too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

_DRAWS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are found.

    Args:
        resamples: Number R of resamples.
        level: Confidence level, in (0, 1).
        seed: Seed of the draws, not negative.
    """

    resamples: int = 1000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject what gives no interval."""
        if self.resamples < 1:
            raise ValueError(f"resamples: must be at least 1, got {self.resamples}")
        if not 0.0 < self.level < 1.0:
            raise ValueError(f"level: must lie between 0 and 1, got {self.level}")
        if self.seed < 0:
            raise ValueError(f"seed: must be at least 0, got {self.seed}")


DEFAULT_BOOTSTRAP = Bootstrap()


class Estimate(NamedTuple):
    """A mean with its interval.

    Args:
        value: The mean; NaN of nothing.
        low: Lower end of the interval; NaN where fewer than two clusters say nothing of the spread.
        high: Upper end of the interval, or NaN.
        size: How many items, pairs or figures the value is the mean of.
    """

    value: float
    low: float
    high: float
    size: int


def format_estimate(estimate: Estimate | None) -> str:
    """Write a fraction in per cent with its interval."""
    if estimate is None:
        return "unavailable"
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def bootstrap_means(
    scores: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> np.ndarray:
    """Resample clusters with replacement and take the mean over their items.

    Of C clusters with item sums S_c and sizes n_c, resample r draws c_1 .. c_C uniformly with replacement and its mean
    is (sum_j S_{c_j}) / (sum_j n_{c_j}) (Efron and Tibshirani, 1993, chapters 6 and 8).

    Args:
        scores: n scores.
        clusters: n names; items of one name are drawn together. None: every item is a cluster of its own.
        bootstrap: How many resamples, and their seed.

    Returns:
        (R,) means; all NaN if there are fewer than two clusters.

    Raises:
        ValueError: The lengths differ.
    """
    sums: np.ndarray = np.asarray(scores, dtype=np.float64)  # (C,) of the clusters, in the order of their first items
    sizes: np.ndarray = np.ones(len(sums))
    if clusters is not None:
        if len(clusters) != len(sums):
            raise ValueError(f"clusters: need one name per score, got {len(clusters)} names and {len(sums)} scores")
        numbers: dict[Hashable, int] = {}
        codes = np.array([numbers.setdefault(name, len(numbers)) for name in clusters], dtype=np.int64)
        sums, sizes = np.bincount(codes, weights=sums), np.bincount(codes).astype(np.float64)
    if len(sums) < 2:
        return np.full(bootstrap.resamples, np.nan)
    generator = np.random.default_rng(bootstrap.seed)
    items = max(1, _DRAWS_AT_ONCE // len(sums))
    starts = range(0, bootstrap.resamples, items)
    shapes = [(min(items, bootstrap.resamples - start), len(sums)) for start in starts]
    drawn = (generator.integers(len(sums), size=shape) for shape in shapes)
    if (sizes == sizes[0]).all():
        return np.concatenate([sums[picked].mean(axis=1) for picked in drawn]) / sizes[0]
    return np.concatenate([sums[picked].sum(axis=1) / sizes[picked].sum(axis=1) for picked in drawn])


def percentile_interval(means: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The (1 - level) / 2 and (1 + level) / 2 quantiles of bootstrap means; NaN where a mean is.

    Of scores that are all equal the interval has no width: the percentile bootstrap cannot see beyond its sample.

    Args:
        means: (R,) means.
        level: In (0, 1).
    """
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def estimate_mean(
    scores: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> Estimate:
    """The mean of n scores with its percentile bootstrap interval; arguments and errors as in ``bootstrap_means``."""
    value = float(np.mean(scores)) if len(scores) else float("nan")
    low, high = percentile_interval(bootstrap_means(scores, clusters, bootstrap), bootstrap.level)
    return Estimate(value, low, high, len(scores))


def estimate_mean_of_runs(values: Sequence[float], level: float = 0.95) -> Estimate:
    """The mean of n runs with Student's interval: mean ± t s / sqrt(n), t of n - 1 degrees of freedom.

    For a handful of runs, such as one of each seed, where a bootstrap is too narrow: it draws from those alone. Of two
    settings that share their seeds, give the differences run by run.

    Args:
        values: One of each run.
        level: Confidence level, in (0, 1).

    Example:
        >>> estimate_mean_of_runs([0.70, 0.72, 0.74]).high.__round__(4)
        0.7697
    """
    n = len(values)
    value = float(np.mean(values)) if n else float("nan")
    if n < 2:
        return Estimate(value, float("nan"), float("nan"), n)
    half = float(stdtrit(n - 1, (1 + level) / 2)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Estimate(value, value - half, value + half, n)
