"""torchmetrics classes over ``visplay.functional``: each row counts once, on any number of ranks and in any order."""

from visplay.metrics.across import BenchmarkAverage, PairedComparison
from visplay.metrics.benchmarks import HallusionBenchAccuracy, MMMUAccuracy, MMVetScore
from visplay.metrics.rows import Report, RowMetric
from visplay.metrics.scores import SCORINGS, BenchmarkScores, Scoring, SuiteScores
from visplay.metrics.verdicts import JudgeAccuracy, RuleAccuracy, SampledAccuracy, WrongClaims

__all__ = [
    "BenchmarkAverage",
    "BenchmarkScores",
    "HallusionBenchAccuracy",
    "JudgeAccuracy",
    "MMMUAccuracy",
    "MMVetScore",
    "PairedComparison",
    "Report",
    "RowMetric",
    "RuleAccuracy",
    "SCORINGS",
    "SampledAccuracy",
    "Scoring",
    "SuiteScores",
    "WrongClaims",
]
