"""Two checkpoints on the same rows: the paired difference and McNemar's exact test."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from typing import Literal, NamedTuple, get_args

from scipy.special import bdtr

from visplay.statistics.intervals import DEFAULT_BOOTSTRAP, Bootstrap, Estimate, estimate_mean

OnMissing = Literal["reject", "count"]


class Comparison(NamedTuple):
    """Two checkpoints on the rows that both have.

    Args:
        before: Mean score of the first.
        after: Mean score of the second.
        difference: After less before, with its paired bootstrap interval.
        gained: Rows that became right; None, unavailable, where scores are graded.
        lost: Rows that became wrong; None, unavailable, where scores are graded.
        p_value: Of McNemar's exact test; None, unavailable, where scores are graded.
        missing_before: Keys of the rows that only the second has, sorted.
        missing_after: Keys of the rows that only the first has, sorted.
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
    p = min(1, 2 sum_{i <= k} C(n, i) / 2^n). It takes rows as independent: where they share figures it is too small.

    Args:
        gained: Rows that only the second checkpoint has right, not negative.
        lost: Rows that only the first checkpoint has right, not negative.

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
    """Compare two checkpoints row by row: the mean of d_i = after_i - before_i over the rows i that both have.

    Args:
        before: Scores of the first checkpoint in [0, 1] under their rows' keys.
        after: Scores of the second checkpoint.
        clusters: What is resampled together, by key; None, or a key without an entry: the row by itself.
        on_missing: ``reject`` rows that only one side has, or leave them out and ``count`` them.
        bootstrap: How the interval is found.

    Raises:
        ValueError: Rows are missing on one side and are rejected, or ``on_missing`` is unknown.

    Example:
        >>> result = compare_paired({"a": 0, "b": 1, "c": 0}, {"a": 1, "b": 1, "c": 1})
        >>> round(result.difference.value, 3), result.gained, result.lost, result.p_value
        (0.667, 2, 0, 0.5)
    """
    if on_missing not in get_args(OnMissing):
        raise ValueError(f"on_missing: must be one of {get_args(OnMissing)}, got {on_missing!r}")
    missing_before, missing_after = _missing(after, before), _missing(before, after)
    if on_missing == "reject" and (missing_before or missing_after):
        raise ValueError(
            f"before, after: need the same rows, before lacks {_some(missing_before)} and after {_some(missing_after)}"
        )
    keys = sorted(before.keys() & after.keys())
    pairs = [(float(before[key]), float(after[key])) for key in keys]
    shared = None if clusters is None else [clusters.get(key, ("row", key)) for key in keys]
    gained, lost, p_value = _mcnemar(pairs)
    return Comparison(
        before=_mean([one for one, _ in pairs]),
        after=_mean([other for _, other in pairs]),
        difference=estimate_mean([other - one for one, other in pairs], shared, bootstrap),
        gained=gained,
        lost=lost,
        p_value=p_value,
        missing_before=missing_before,
        missing_after=missing_after,
    )


def _mcnemar(pairs: Collection[tuple[float, float]]) -> tuple[int | None, int | None, float | None]:
    """Rows gained and lost, and the p-value; None for each where a score is neither 0 nor 1."""
    if any(score not in (0.0, 1.0) for pair in pairs for score in pair):
        return None, None, None
    gained, lost = sum(pair == (0.0, 1.0) for pair in pairs), sum(pair == (1.0, 0.0) for pair in pairs)
    return gained, lost, mcnemar_p_value(gained, lost)


def _mean(scores: Collection[float]) -> float:
    return sum(scores) / len(scores) if scores else float("nan")


def _missing(whole: Collection[str], part: Collection[str]) -> tuple[str, ...]:
    return tuple(sorted(set(whole) - set(part)))


def _some(keys: Collection[str]) -> str:
    """How many keys, and the first few of them."""
    return f"{len(keys)} rows {list(keys)[:3]}" if keys else "none"
