"""Two checkpoints on the same items: the paired difference and McNemar's exact test."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Literal, NamedTuple, get_args

from scipy.special import bdtr

from visplay.statistics.intervals import DEFAULT_BOOTSTRAP, Bootstrap, Estimate, estimate_mean

OnMissing = Literal["reject", "count"]


class Comparison(NamedTuple):
    """Two checkpoints on the items that both have.

    Args:
        before: Mean score of the first.
        after: Mean score of the second.
        difference: After less before, with its paired bootstrap interval.
        gained: Items that became right; None, unavailable, where scores are graded.
        lost: Items that became wrong; None, unavailable, where scores are graded.
        p_value: Of McNemar's exact test; None, unavailable, where scores are graded.
        missing_before: Keys of the items that only the second has, sorted.
        missing_after: Keys of the items that only the first has, sorted.
    """

    before: float
    after: float
    difference: Estimate
    gained: int | None
    lost: int | None
    p_value: float | None
    missing_before: tuple[str, ...]
    missing_after: tuple[str, ...]


def mcnemar_p_value(gained: int, lost: int) -> float:
    """Two-sided p-value of McNemar's exact test.

    If neither checkpoint is better, the smaller k of the two counts is Binomial(n, 1/2), n = gained + lost, so
    p = min(1, 2 sum_{i <= k} C(n, i) / 2^n). It takes items as independent: where they share figures it is too small.

    Args:
        gained: Number of items that only the second checkpoint has right.
        lost: Number of items that only the first checkpoint has right.

    Raises:
        ValueError: A negative count.

    Example:
        >>> mcnemar_p_value(gained=5, lost=0)
        0.0625
    """
    if min(gained, lost) < 0:
        raise ValueError(f"gained, lost: must not be negative, got {gained} and {lost}")
    return min(1.0, 2.0 * float(bdtr(min(gained, lost), gained + lost, 0.5)))


def compare_paired(
    before: Mapping[str, float],
    after: Mapping[str, float],
    clusters: Mapping[str, Hashable] | None = None,
    on_missing: OnMissing = "reject",
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> Comparison:
    """Compare two checkpoints item by item: the mean of d_i = after_i - before_i over the items i that both have.

    Args:
        before: Scores of the first checkpoint in [0, 1] under their items' keys.
        after: Scores of the second checkpoint.
        clusters: What is resampled together, by key; None, or a key without an entry: the item by itself.
        on_missing: ``reject`` items that only one side has, or leave them out and ``count`` them.
        bootstrap: How the interval is found.

    Raises:
        ValueError: Items are missing on one side and are rejected, or ``on_missing`` is unknown.
    """
    if on_missing not in get_args(OnMissing):
        raise ValueError(f"on_missing: must be one of {get_args(OnMissing)}, got {on_missing!r}")
    missing_before, missing_after = (tuple(sorted(a.keys() - b.keys())) for a, b in ((after, before), (before, after)))
    if on_missing == "reject" and (missing_before or missing_after):
        some = [f"{len(keys)} items {list(keys)[:3]}" if keys else "none" for keys in (missing_before, missing_after)]
        raise ValueError(f"before, after: need the same items, before lacks {some[0]} and after {some[1]}")
    keys = sorted(before.keys() & after.keys())
    pairs = [(float(before[key]), float(after[key])) for key in keys]
    shared = None if clusters is None else [clusters.get(key, ("item", key)) for key in keys]
    graded = any(score not in (0.0, 1.0) for pair in pairs for score in pair)
    gained, lost = sum(pair == (0.0, 1.0) for pair in pairs), sum(pair == (1.0, 0.0) for pair in pairs)
    return Comparison(
        before=sum(one for one, _ in pairs) / len(pairs) if pairs else float("nan"),
        after=sum(other for _, other in pairs) / len(pairs) if pairs else float("nan"),
        difference=estimate_mean([other - one for one, other in pairs], shared, bootstrap),
        gained=None if graded else gained,
        lost=None if graded else lost,
        p_value=None if graded else mcnemar_p_value(gained, lost),
        missing_before=missing_before,
        missing_after=missing_after,
    )
