"""Evaluation on benchmarks: answered rows on disk, judged, compared, and shown as tables."""

from visplay.evaluation.comparison import compare_stores
from visplay.evaluation.judging import describe_usage, judge_name, judge_rows, read_usage, write_agreement, write_usage
from visplay.evaluation.store import RowStore
from visplay.evaluation.tables import as_json, as_markdown, as_rich, comparison_table, detail_table, score_table

__all__ = [
    "RowStore",
    "as_json",
    "as_markdown",
    "as_rich",
    "compare_stores",
    "comparison_table",
    "describe_usage",
    "detail_table",
    "judge_name",
    "judge_rows",
    "read_usage",
    "score_table",
    "write_agreement",
    "write_usage",
]
