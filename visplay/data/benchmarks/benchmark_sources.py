"""What a benchmark is and where its rows are: settings alone, nothing is opened."""

from __future__ import annotations

import re
from dataclasses import dataclass

from visplay.data.images.decoding import ImageLimits

_NAME = re.compile(r"[\w.-]+")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class BenchmarkColumns:
    """Which column of a benchmark holds what.

    Args:
        problem: The question, text; ``<image>`` and ``<image 2>`` stand for its images.
        answer: The gold answer; numbers and booleans become text.
        images: The images, in any shape that ``read_images`` takes; None for the first of images, image, img,
            picture, pictures; empty where the questions have none.
        key: Identity of the row; None for the first of id, question_id, problem_id, sample_index, index, pid that
            differs in every row of the benchmark, and file and row number where there is none.
        part: Tells apart the benchmarks that one file holds.
        options: Options of a multiple-choice question, a list or a list written as text; a table may lack it.
        problem_type: Kind of the question; a table may lack it.
    """

    problem: str = "problem"
    answer: str = "answer"
    images: str | None = None
    key: str | None = None
    part: str = "file_name"
    options: str = "options"
    problem_type: str = "problem_type"


@dataclass(frozen=True)
class BenchmarkSource:
    """One benchmark: a data set on the Hub that ``visplay prepare`` downloads, or files that are here.

    Args:
        name: Of the benchmark; it goes into the metrics' names and begins every key.
        repo: Data set on the Hub, ``owner/name``.
        revision: Branch, tag or commit; ``visplay prepare`` records the commit, and keeps to it from then on.
        files: Pattern of the parquet files in ``repo``.
        path: A parquet or arrow file, a directory or a pattern of them, instead of ``repo``.
        split: Of a directory in ``path`` that has several, see ``open_table``; None for the only one.
        part: Value of the column ``columns.part`` in the rows of this benchmark; None for all rows.
        columns: Names of the columns.
        blank_problem: Stands in for a question without text, which is then in the image; None if such a row cannot
            be used.
        votes: Answers to sample per question besides the greedy one; 0 for none.
        scoring: Which metrics the benchmark has of its own, see ``visplay.metrics.BenchmarkScores``.
        published_rows: Rows that the paper's table has, to be told alongside the number found.
        limits: Rows with an image that breaks them are skipped.

    Raises:
        ValueError: If there is neither or both of ``repo`` and ``path``, or one of the names is none.
    """

    name: str
    repo: str | None = None
    revision: str = "main"
    files: str = "*test*.parquet"
    path: str | None = None
    split: str | None = None
    part: str | None = None
    columns: BenchmarkColumns = BenchmarkColumns()  # noqa: RUF009 (frozen)
    blank_problem: str | None = None
    votes: int = 0
    scoring: str = "accuracy"
    published_rows: int | None = None
    limits: ImageLimits = ImageLimits()  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        """Reject what names no rows."""
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name: {self.name!r} must consist of letters, digits, '_', '-' and '.'")
        if (self.repo is None) == (self.path is None):
            raise ValueError(f"repo, path: benchmark {self.name!r} needs one of them, got {self.repo!r}, {self.path!r}")
        if self.repo is not None and not _REPO.fullmatch(self.repo):
            raise ValueError(f"repo: {self.repo!r} must be a name on the Hub, owner/name")
