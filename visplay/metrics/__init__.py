"""torchmetrics classes over ``visplay.functional.grading``."""

from visplay.metrics.accuracy import AnswerAccuracy, BenchmarkMetrics, WrongClaimRate

__all__ = ["AnswerAccuracy", "BenchmarkMetrics", "WrongClaimRate"]
