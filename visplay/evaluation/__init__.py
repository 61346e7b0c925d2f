"""Evaluation on benchmarks: answered items on disk, judged, compared, and shown as tables."""

from visplay.evaluation.answer_store import AnswerStore
from visplay.evaluation.judging import (
    describe_usage,
    judge_answers,
    judge_name,
    read_usage,
    write_agreement,
    write_usage,
)
from visplay.evaluation.report_tables import as_json, as_markdown, as_rich, comparison_table, detail_table, score_table
from visplay.evaluation.store_comparison import compare_stores

__all__ = [
    "AnswerStore",
    "as_json",
    "as_markdown",
    "as_rich",
    "compare_stores",
    "comparison_table",
    "describe_usage",
    "detail_table",
    "judge_name",
    "judge_answers",
    "read_usage",
    "score_table",
    "write_agreement",
    "write_usage",
]
