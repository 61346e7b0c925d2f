"""torchmetrics classes over ``visplay.statistics``: each item counts once, on any number of ranks and in any order."""

from visplay.metrics.benchmark_metrics import HallusionBenchAccuracy, MMMUAccuracy, MMVetScore
from visplay.metrics.item_metric import ItemMetric, Report
from visplay.metrics.scores import SCORINGS, BenchmarkScores, Scoring, SuiteScores
from visplay.metrics.several_benchmarks import BenchmarkAverage, PairedComparison
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
    "ItemMetric",
    "RuleAccuracy",
    "SCORINGS",
    "SampledAccuracy",
    "Scoring",
    "SuiteScores",
    "WrongClaims",
]
