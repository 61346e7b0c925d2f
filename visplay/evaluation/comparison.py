"""Two models on the same rows, from what their stores hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable
from typing import NamedTuple

from visplay.evaluation.judging import judges_of, read_verdicts
from visplay.evaluation.store import RowStore
from visplay.metrics.scores import figure_id
from visplay.statistics.averages import ScoredRows, average_benchmarks
from visplay.statistics.paired import Comparison, OnMissing, compare_paired
from visplay.statistics.raters import final_score, judge_score


class _Pairs(NamedTuple):
    """Scores of the rows that two models have on one benchmark, in one order.

    Args:
        before: Of the first model.
        after: Of the second model.
        figures: What each shares with others; itself alone where that is not known.
    """

    before: list[float]
    after: list[float]
    figures: list[Hashable]


class _Scored(NamedTuple):
    """Rows of one model on one benchmark.

    Args:
        texts: Question and gold answer, by key.
        scores: By measure and key.
        figures: What a row shares with others, by key.
    """

    texts: dict[str, tuple[str, str]]
    scores: dict[str, dict[str, float]]
    figures: dict[str, str]


def compare_stores(
    before: RowStore, after: RowStore, on_missing: OnMissing = "count", only: Collection[str] | None = None
) -> dict[tuple[str, str], Comparison]:
    """Compare two models row by row on every benchmark that both have answered.

    Args:
        before: Rows of the first model.
        after: Rows of the second model.
        on_missing: ``reject`` rows that only one side has, or leave them out and ``count`` them.
        only: Names of the benchmarks to compare; None for all.

    Returns:
        By benchmark and measure: ``rule_accuracy``, ``pass@1`` where both were sampled, ``majority@K`` where both were
        sampled K times, and ``judge_accuracy/...`` for each judge of both; of several benchmarks also their averages,
        see ``average_benchmarks``.

    Raises:
        ValueError: A row has another question or gold answer on the other side, or rows or benchmarks are missing and
            rejected.
    """
    found: dict[tuple[str, str], Comparison] = {}
    pairs: dict[str, dict[str, _Pairs]] = {}
    names, others = {*before.benchmarks()}, {*after.benchmarks()}
    if on_missing == "reject" and names != others:
        raise ValueError(f"before, after: only one side has rows of {sorted(names ^ others)}")
    for benchmark in sorted(names & others if only is None else names & others & set(only)):
        one, other = _read(before, benchmark), _read(after, benchmark)
        _check_texts(benchmark, one.texts, other.texts)
        for measure in one.scores:
            if measure in other.scores:
                scores = one.scores[measure], other.scores[measure]
                found[benchmark, measure] = compare_paired(*scores, one.figures, on_missing)
                pairs.setdefault(measure, {})[benchmark] = _pair(*scores, one.figures)
    for measure, benchmarks in pairs.items():
        if len(benchmarks) > 1:
            found |= {(average, measure): comparison for average, comparison in _average(benchmarks).items()}
    return found


def _pair(before: dict[str, float], after: dict[str, float], figures: dict[str, str]) -> _Pairs:
    keys = sorted(before.keys() & after.keys())
    shared: list[Hashable] = [figures.get(key, ("row", key)) for key in keys]
    return _Pairs([before[key] for key in keys], [after[key] for key in keys], shared)


def _average(benchmarks: dict[str, _Pairs]) -> dict[str, Comparison]:
    """Differences of the averages; intervals are those of the rows' differences."""
    pairs = {name: pair for name, pair in benchmarks.items() if pair.before}
    means = [
        average_benchmarks({name: ScoredRows(scores(pair), pair.figures) for name, pair in pairs.items()})
        for scores in (lambda pair: pair.before, lambda pair: pair.after, _differences)
    ]
    before, after, difference = means
    return {
        name: Comparison(before[name].value, after[name].value, difference[name], None, None, None, (), ())
        for name in difference
    }


def _differences(pair: _Pairs) -> list[float]:
    return [after - before for before, after in zip(pair.before, pair.after, strict=True)]


def _read(store: RowStore, benchmark: str) -> _Scored:
    judges = {judge: read_verdicts(store, judge, benchmark) for judge in judges_of(store)}
    names = [f"judge_accuracy/{judge}" for judge in judges]
    read = _Scored({}, defaultdict(dict), {})
    for row in store.rows(benchmark):
        read.texts[row.key] = row.problem, row.gold
        read.scores["rule_accuracy"][row.key] = float(row.greedy.correct)
        if row.samples:
            read.scores["pass@1"][row.key] = sum(sample.correct for sample in row.samples) / len(row.samples)
            read.scores[f"majority@{len(row.samples)}"][row.key] = float(row.majority_correct)
        for name, verdicts in zip(names, judges.values(), strict=True):
            if row.key in verdicts:
                judged = judge_score(verdicts[row.key]["correct"], verdicts[row.key]["score"])
                read.scores[name][row.key] = final_score(row.greedy.correct, judged)
        if figure := figure_id(row.metadata):
            read.figures[row.key] = figure
    return read


def _check_texts(benchmark: str, before: dict[str, tuple[str, str]], after: dict[str, tuple[str, str]]) -> None:
    changed = [key for key in before if key in after and before[key] != after[key]]
    if changed:
        key = changed[0]
        raise ValueError(
            f"before, after: {len(changed)} rows of {benchmark!r} have another question or gold answer, such as "
            f"{key!r}: {before[key]} and {after[key]}; the rows are shifted, or the file has changed"
        )
