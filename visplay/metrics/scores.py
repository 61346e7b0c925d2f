"""All that is measured of a suite of benchmarks, from answered rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from visplay.answered import AnsweredRow, BatchAnswers
from visplay.metrics.across import BenchmarkAverage
from visplay.metrics.benchmarks import HallusionBenchAccuracy, MMMUAccuracy, MMVetScore
from visplay.metrics.rows import Report, RowMetric
from visplay.metrics.verdicts import JudgeAccuracy, JudgedMetric, RuleAccuracy, SampledAccuracy, WrongClaims
from visplay.statistics.breakdown import NO_FIGURE, mmmu_discipline
from visplay.statistics.raters import final_score

_SET = ("category", "subcategory", "set_id")


def pair_id(metadata: Mapping[str, str]) -> str | None:
    """Id of the question pair of a HallusionBench row; None where a part of it is missing.

    Example:
        >>> pair_id({"category": "VD", "subcategory": "math", "set_id": "1", "question_id": "0"})
        'VD/math/1/0'
    """
    return _join(metadata, (*_SET, "question_id"))


def figure_id(metadata: Mapping[str, str]) -> str | None:
    """Id of the figure of a HallusionBench row, ``NO_FIGURE`` for none; None where a part of it is missing."""
    return NO_FIGURE if metadata.get("visual_input") == "0" else _join(metadata, (*_SET, "figure_id"))


def _clusters(rows: Sequence[AnsweredRow]) -> dict[str, list]:
    return {"clusters": _figures(rows)}


def _disciplines(rows: Sequence[AnsweredRow]) -> dict[str, list]:
    return {"disciplines": [mmmu_discipline(row.metadata.get("id", "")) for row in rows]}


def _pairs(rows: Sequence[AnsweredRow]) -> dict[str, list]:
    return {"pairs": [pair_id(row.metadata) for row in rows], "figures": [figure_id(row.metadata) for row in rows]}


def _capabilities(rows: Sequence[AnsweredRow]) -> dict[str, list]:
    return {"capabilities": [_read_capabilities(row.metadata.get("capability", "")) for row in rows]}


class Scoring(NamedTuple):
    """What is measured of one kind of benchmark besides what is measured of all.

    Args:
        own: Metric of its own, of verdicts by rule; None for none.
        columns: What the rows tell this metric besides keys and verdicts, by argument of ``update``.
        judged: Metric of a judge's scores.
        judged_columns: What the rows tell that one besides keys, verdicts and scores.
        graded: Whether a judge is asked for a score in [0, 1] besides its verdict.
    """

    own: type[RowMetric] | None = None
    columns: Callable[[Sequence[AnsweredRow]], dict[str, list]] = _clusters
    judged: type[JudgedMetric] = JudgeAccuracy
    judged_columns: Callable[[Sequence[AnsweredRow]], dict[str, list]] = _clusters
    graded: bool = False


SCORINGS = {
    "accuracy": Scoring(),
    "mmmu": Scoring(MMMUAccuracy, _disciplines),
    "hallusionbench": Scoring(HallusionBenchAccuracy, _pairs),
    "mm_vet": Scoring(judged=MMVetScore, judged_columns=_capabilities, graded=True),
}
"""By the name that a benchmark gives."""


class BenchmarkScores:
    """What is measured of one benchmark.

    Args:
        samples: K, sampled answers per row; 0 for none.
        scoring: Which measures the benchmark has of its own, one of ``SCORINGS``.
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
        """Add rows; one that comes again counts once.

        Args:
            answers: Answered and skipped rows.
        """
        self.skipped.update(list(answers.skipped), [False] * len(answers.skipped))
        rows = answers.rows
        keys, right, figures = [row.key for row in rows], [row.greedy.correct for row in rows], _figures(rows)
        self.rule.update(keys, right, figures)
        wrong = [row.greedy.answer is not None and not row.greedy.correct for row in rows]
        self.wrong_claims.update(keys, wrong, figures)
        if self.sampled is not None:
            verdicts = [[sample.correct for sample in row.samples] for row in rows]
            self.sampled.update(keys, verdicts, [row.majority_correct for row in rows], figures)
        if self.own is not None:
            self.own.update(keys, right, **self.scoring.columns(rows))

    def update_judged(self, judge: str, rows: Sequence[AnsweredRow], scores: Sequence[float | None]) -> None:
        """Add a judge's scores of greedy answers.

        Args:
            judge: Name of the judge.
            rows: The rows.
            scores: A score in [0, 1] per row; None where judging failed: the rule's verdict stands.
        """
        keys, right = [row.key for row in rows], [row.greedy.correct for row in rows]
        self.judged[judge].update(keys, right, scores, **self.scoring.judged_columns(rows))

    def compute(self) -> Report:
        """Every measure; K, and how many rows there are, were skipped, and have no verdict of a judge."""
        rule = self.rule.compute()
        measures, counts = rule.measures | self.wrong_claims.compute().measures, rule.counts
        counts = counts | {"skipped": self.skipped.compute().counts["rows"], "samples": self.samples}
        for metric in (metric for metric in (self.sampled, self.own) if metric is not None):
            found = metric.compute().measures
            measures |= {_plain(name): value for name, value in found.items() if name != "accuracy"}
        for name, judged in self.judged.items():
            report = judged.compute()
            measures |= {_judge_measure(measure, name): value for measure, value in report.measures.items()}
            counts[f"unjudged/{name}"] = report.counts["unjudged"]
        return Report(measures, counts)


class SuiteScores:
    """What is measured of several benchmarks, and their averages.

    Args:
        benchmarks: The measures of each, by its name.
        judges: Names of the judges.
    """

    def __init__(self, benchmarks: Mapping[str, BenchmarkScores], judges: Collection[str] = ()) -> None:
        self.benchmarks = dict(benchmarks)
        self._averages = {"rule_accuracy": BenchmarkAverage()}
        self._averages |= {f"judge_accuracy/{judge}": BenchmarkAverage() for judge in judges}

    def update(self, answers: BatchAnswers) -> None:
        """Add rows of one benchmark; one that comes again counts once."""
        self.benchmarks[answers.benchmark].update(answers)
        right = [row.greedy.correct for row in answers.rows]
        self._average("rule_accuracy", answers.benchmark, answers.rows, right)

    def update_judged(
        self, judge: str, benchmark: str, rows: Sequence[AnsweredRow], scores: Sequence[float | None]
    ) -> None:
        """Add a judge's scores of rows of one benchmark, see ``BenchmarkScores.update_judged``."""
        self.benchmarks[benchmark].update_judged(judge, rows, scores)
        final = [final_score(row.greedy.correct, score) for row, score in zip(rows, scores, strict=True)]
        self._average(f"judge_accuracy/{judge}", benchmark, rows, final)

    def compute(self) -> dict[str, Report]:
        """The report of each benchmark; of several also ``macro_average`` and ``micro_average``."""
        reports = {name: scores.compute() for name, scores in self.benchmarks.items()}
        if len(self.benchmarks) < 2:
            return reports
        averages = {measure: metric.compute() for measure, metric in self._averages.items()}
        for name in ("macro_average", "micro_average"):
            found = {m: report.measures[name] for m, report in averages.items() if name in report.measures}
            reports[name] = Report(found, averages["rule_accuracy"].counts)
        return reports

    def _average(self, measure: str, benchmark: str, rows: Sequence[AnsweredRow], scores: Sequence[float]) -> None:
        self._averages[measure].update(benchmark, [row.key for row in rows], scores, _figures(rows))


def _plain(measure: str) -> str:
    """``majority@K`` without K, which ``samples`` counts: a tag must not change with a setting."""
    return "majority" if measure.startswith("majority@") else measure


def _judge_measure(measure: str, judge: str) -> str:
    """``judge_accuracy/judge``; what MM-Vet grades besides stands below it."""
    return f"judge_accuracy/{judge}" if measure in ("judge_accuracy", "score") else f"{measure}/{judge}"


def _figures(rows: Sequence[AnsweredRow]) -> list[str | None]:
    """What rows are resampled with; None for those without a figure, or with one that is not known."""
    return [figure_id(row.metadata) or None for row in rows]


def _read_capabilities(text: str) -> list[str] | None:
    """The capabilities that a question of MM-Vet needs, as its source lists them."""
    names = [name.strip(" []'\"") for name in text.split(",")]
    return [name for name in names if name] or None


def _join(metadata: Mapping[str, str], names: Sequence[str]) -> str | None:
    return "/".join(metadata[name] for name in names) if all(name in metadata for name in names) else None
