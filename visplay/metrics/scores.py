"""All metrics of a suite of benchmarks, from answered items."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from visplay.benchmark_answers import AnsweredItem, BatchAnswers
from visplay.metrics.benchmark_metrics import HallusionBenchAccuracy, MMMUAccuracy, MMVetScore
from visplay.metrics.item_metric import ItemMetric, Report
from visplay.metrics.several_benchmarks import BenchmarkAverage
from visplay.metrics.verdicts import JudgeAccuracy, JudgedMetric, RuleAccuracy, SampledAccuracy, WrongClaims
from visplay.statistics.breakdown import NO_FIGURE, mmmu_discipline
from visplay.statistics.raters import final_score

_SET = ("category", "subcategory", "set_id")


def pair_id(metadata: Mapping[str, str]) -> str | None:
    """Id of the question pair of a HallusionBench item; None where a part of it is missing.

    Example:
        >>> pair_id({"category": "VD", "subcategory": "math", "set_id": "1", "question_id": "0"})
        'VD/math/1/0'
    """
    return _join(metadata, (*_SET, "question_id"))


def figure_id(metadata: Mapping[str, str]) -> str | None:
    """Id of the figure of a HallusionBench item, ``NO_FIGURE`` for none; None where a part of it is missing."""
    return NO_FIGURE if metadata.get("visual_input") == "0" else _join(metadata, (*_SET, "figure_id"))


def _join(metadata: Mapping[str, str], names: Sequence[str]) -> str | None:
    return "/".join(metadata[name] for name in names) if all(name in metadata for name in names) else None


def _figures(items: Sequence[AnsweredItem]) -> list[str | None]:
    """What items are resampled with; None for those without a figure, or with one that is not known."""
    return [figure_id(item.metadata) or None for item in items]


def _capabilities(text: str) -> list[str] | None:
    """The capabilities that a question of MM-Vet needs, as its source lists them."""
    names = [name.strip(" []'\"") for name in text.split(",")]
    return [name for name in names if name] or None


class Scoring(NamedTuple):
    """The metrics of one kind of benchmark besides those of all.

    Args:
        own: Metric of its own, of verdicts by rule; None for none.
        columns: What the items tell this metric besides keys and verdicts, by argument of ``update``.
        judged: Metric of a judge's scores.
        judged_columns: What the items tell that one besides keys, verdicts and scores.
        graded: Whether a judge is asked for a score in [0, 1] besides its verdict.
    """

    own: type[ItemMetric] | None = None
    columns: Callable[[Sequence[AnsweredItem]], dict[str, list]] = lambda items: {"clusters": _figures(items)}
    judged: type[JudgedMetric] = JudgeAccuracy
    judged_columns: Callable[[Sequence[AnsweredItem]], dict[str, list]] = lambda items: {"clusters": _figures(items)}
    graded: bool = False


SCORINGS = {
    "accuracy": Scoring(),
    "mmmu": Scoring(
        MMMUAccuracy, lambda items: {"disciplines": [mmmu_discipline(item.metadata.get("id", "")) for item in items]}
    ),
    "hallusionbench": Scoring(
        HallusionBenchAccuracy,
        lambda items: {
            "pairs": [pair_id(item.metadata) for item in items],
            "figures": [figure_id(item.metadata) for item in items],
        },
    ),
    "mm_vet": Scoring(
        judged=MMVetScore,
        judged_columns=lambda items: {
            "capabilities": [_capabilities(item.metadata.get("capability", "")) for item in items]
        },
        graded=True,
    ),
}
"""By the name that a benchmark gives."""


class BenchmarkScores:
    """The metrics of one benchmark.

    Args:
        samples: K, sampled answers per item; 0 for none.
        scoring: Which metrics the benchmark has of its own, one of ``SCORINGS``.
        judges: Names of the judges.

    Raises:
        ValueError: An unknown scoring.
    """

    def __init__(self, samples: int = 0, scoring: str = "accuracy", judges: Sequence[str] = ()) -> None:
        if scoring not in SCORINGS:
            raise ValueError(f"scoring: must be one of {tuple(SCORINGS)}, got {scoring!r}")
        self.samples = samples
        self.scoring = SCORINGS[scoring]
        self.rule, self.wrong_claims, self.skipped = RuleAccuracy(), WrongClaims(), RuleAccuracy()
        self.sampled = SampledAccuracy(samples) if samples else None
        self.own = self.scoring.own and self.scoring.own()
        self.judged = {name: self.scoring.judged() for name in judges}

    def update(self, answers: BatchAnswers) -> None:
        """Add answered and skipped items; one that comes again counts once."""
        self.skipped.update(list(answers.skipped), [False] * len(answers.skipped))
        items = answers.items
        keys, right, figures = [item.key for item in items], [item.greedy.correct for item in items], _figures(items)
        self.rule.update(keys, right, figures)
        wrong = [item.greedy.answer is not None and not item.greedy.correct for item in items]
        self.wrong_claims.update(keys, wrong, figures)
        if self.sampled is not None:
            verdicts = [[sample.correct for sample in item.samples] for item in items]
            self.sampled.update(keys, verdicts, [item.majority_correct for item in items], figures)
        if self.own is not None:
            self.own.update(keys, right, **self.scoring.columns(items))

    def update_judged(self, judge: str, items: Sequence[AnsweredItem], scores: Sequence[float | None]) -> None:
        """Add a judge's scores of greedy answers, in [0, 1]; None where judging failed: the rule's verdict stands."""
        keys, right = [item.key for item in items], [item.greedy.correct for item in items]
        self.judged[judge].update(keys, right, scores, **self.scoring.judged_columns(items))

    def compute(self) -> Report:
        """Every metric; K, and how many items there are, were skipped, and have no verdict of a judge.

        ``majority@K`` is reported without K, which ``samples`` counts: a tag must not change with a setting. What
        MM-Vet grades is its ``judge_accuracy/judge``.
        """
        rule = self.rule.compute()
        metrics = rule.metrics | self.wrong_claims.compute().metrics
        counts = rule.counts | {"skipped": self.skipped.compute().counts["items"], "samples": self.samples}
        for further in (self.sampled, self.own):
            for name, value in further.compute().metrics.items() if further is not None else ():
                if name != "accuracy":
                    metrics["majority" if name.startswith("majority@") else name] = value
        for judge, judged in self.judged.items():
            report = judged.compute()
            for name, value in report.metrics.items():
                metrics[f"{'judge_accuracy' if name == 'score' else name}/{judge}"] = value
            counts[f"unjudged/{judge}"] = report.counts["unjudged"]
        return Report(metrics, counts)


class SuiteScores:
    """The metrics of several benchmarks, and their averages.

    Args:
        benchmarks: The metrics of each, by its name.
        judges: Names of the judges.
    """

    def __init__(self, benchmarks: Mapping[str, BenchmarkScores], judges: Collection[str] = ()) -> None:
        self.benchmarks = dict(benchmarks)
        names = ["rule_accuracy", *(f"judge_accuracy/{judge}" for judge in judges)]
        self._averages = {name: BenchmarkAverage() for name in names}

    def update(self, answers: BatchAnswers) -> None:
        """Add items of one benchmark; one that comes again counts once."""
        self.benchmarks[answers.benchmark].update(answers)
        right = [item.greedy.correct for item in answers.items]
        self._average("rule_accuracy", answers.benchmark, answers.items, right)

    def update_judged(
        self, judge: str, benchmark: str, items: Sequence[AnsweredItem], scores: Sequence[float | None]
    ) -> None:
        """Add a judge's scores of items of one benchmark, see ``BenchmarkScores.update_judged``."""
        self.benchmarks[benchmark].update_judged(judge, items, scores)
        final = [final_score(item.greedy.correct, score) for item, score in zip(items, scores, strict=True)]
        self._average(f"judge_accuracy/{judge}", benchmark, items, final)

    def compute(self) -> dict[str, Report]:
        """The report of each benchmark; of several also ``macro_average`` and ``micro_average``."""
        reports = {name: scores.compute() for name, scores in self.benchmarks.items()}
        if len(self.benchmarks) < 2:
            return reports
        averages = {name: average.compute() for name, average in self._averages.items()}
        for average in ("macro_average", "micro_average"):
            found = {name: said.metrics[average] for name, said in averages.items() if average in said.metrics}
            reports[average] = Report(found, averages["rule_accuracy"].counts)
        return reports

    def _average(self, metric: str, benchmark: str, items: Sequence[AnsweredItem], scores: Sequence[float]) -> None:
        self._averages[metric].update(benchmark, [item.key for item in items], scores, _figures(items))
