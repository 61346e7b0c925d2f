"""Two models on the same items, from their stores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable
from typing import NamedTuple

from visplay.evaluation.answer_store import AnswerStore
from visplay.evaluation.judging import judges_of, read_verdicts
from visplay.metrics.scores import figure_id
from visplay.statistics.averages import ScoredRows, average_benchmarks
from visplay.statistics.paired import Comparison, OnMissing, compare_paired
from visplay.statistics.raters import final_score, judge_score


class _Scored(NamedTuple):
    """Items of one model on one benchmark.

    Args:
        texts: Question and gold answer, by key.
        scores: By metric and key.
        figures: What an item shares with others, by key.
    """

    texts: dict[str, tuple[str, str]]
    scores: dict[str, dict[str, float]]
    figures: dict[str, str]


class _Pairs(NamedTuple):
    """Scores of the items that two models have on one benchmark, in one order, and what each shares with others."""

    before: list[float]
    after: list[float]
    differences: list[float]
    figures: list[Hashable]


def compare_stores(
    before: AnswerStore, after: AnswerStore, on_missing: OnMissing = "count", only: Collection[str] | None = None
) -> dict[tuple[str, str], Comparison]:
    """Compare two models item by item on every benchmark that both have answered.

    Args:
        before: Items of the first model.
        after: Items of the second model.
        on_missing: ``reject`` items that only one side has, or leave them out and ``count`` them.
        only: Names of the benchmarks to compare; None for all.

    Returns:
        By benchmark and metric: ``rule_accuracy``, ``pass@1`` where both were sampled, ``majority@K`` where both were
        sampled K times, and ``judge_accuracy/...`` for each judge of both; of several benchmarks also their averages,
        see ``average_benchmarks``, whose differences have the intervals of the items' differences.

    Raises:
        ValueError: An item has another question or gold answer on the other side, or items or benchmarks are missing
            and rejected.
    """
    found: dict[tuple[str, str], Comparison] = {}
    pairs: dict[str, dict[str, _Pairs]] = {}
    names, others = {*before.benchmarks()}, {*after.benchmarks()}
    if on_missing == "reject" and names != others:
        raise ValueError(f"before, after: only one side has items of {sorted(names ^ others)}")
    for benchmark in sorted(names & others if only is None else names & others & set(only)):
        one, other = _read(before, benchmark), _read(after, benchmark)
        if changed := [key for key, text in one.texts.items() if other.texts.get(key, text) != text]:
            key = changed[0]
            raise ValueError(
                f"before, after: {len(changed)} items of {benchmark!r} have another question or gold answer, such as "
                f"{key!r}: {one.texts[key]} and {other.texts[key]}; the rows are shifted, or the file has changed"
            )
        for metric, first in one.scores.items():
            if (second := other.scores.get(metric)) is not None:
                found[benchmark, metric] = compare_paired(first, second, one.figures, on_missing)
                keys = sorted(first.keys() & second.keys())
                pairs.setdefault(metric, {})[benchmark] = _Pairs(
                    [first[key] for key in keys],
                    [second[key] for key in keys],
                    [second[key] - first[key] for key in keys],
                    [one.figures.get(key, ("item", key)) for key in keys],
                )
    for metric, benchmarks in pairs.items():
        if len(benchmarks) > 1:
            shared = {name: two for name, two in benchmarks.items() if two.figures}
            means, further, differences = (
                average_benchmarks(
                    {name: ScoredRows(getattr(pair, side), pair.figures) for name, pair in shared.items()}
                )
                for side in ("before", "after", "differences")
            )
            for name, difference in differences.items():
                values = means[name].value, further[name].value
                found[name, metric] = Comparison(*values, difference, None, None, None, (), ())
    return found


def _read(store: AnswerStore, benchmark: str) -> _Scored:
    judges = {judge: read_verdicts(store, judge, benchmark) for judge in judges_of(store)}
    read = _Scored({}, defaultdict(dict), {})
    for item in store.items(benchmark):
        read.texts[item.key] = item.problem, item.gold
        read.scores["rule_accuracy"][item.key] = float(item.greedy.correct)
        if item.samples:
            read.scores["pass@1"][item.key] = sum(sample.correct for sample in item.samples) / len(item.samples)
            read.scores[f"majority@{len(item.samples)}"][item.key] = float(item.majority_correct)
        for judge, verdicts in judges.items():
            if item.key in verdicts:
                judged = judge_score(verdicts[item.key]["correct"], verdicts[item.key]["score"])
                read.scores[f"judge_accuracy/{judge}"][item.key] = final_score(item.greedy.correct, judged)
        if figure := figure_id(item.metadata):
            read.figures[item.key] = figure
    return read
