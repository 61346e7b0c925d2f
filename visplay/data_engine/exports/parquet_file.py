"""Rows of pairs as one parquet file that ``datasets`` loads with its images decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import datasets

from visplay.data.generated import write_rows
from visplay.data_engine.pairs import Pair

TEXT = datasets.Value("string")
NUMBER = datasets.Value("float64")
IMAGES = datasets.List(datasets.Image())
MESSAGES = datasets.List({"role": TEXT, "content": TEXT})
_ROWS_PER_GROUP = 32


def write_pairs(
    path: Path, features: dict[str, Any], pairs: Iterable[Pair], as_row: Callable[[int, Pair], dict[str, Any]]
) -> None:
    """Write a row for each pair.

    Args:
        path: The file.
        features: Types of the columns.
        pairs: The pairs.
        as_row: Number and pair to the row.
    """
    rows = (as_row(number, pair) for number, pair in enumerate(pairs))
    schema = datasets.Features(features).arrow_schema
    groups = iter(lambda: list(islice(rows, _ROWS_PER_GROUP)), [])
    write_rows(path, schema, groups, dictionary_pagesize_limit=2**28)


def image_cell(pair: Pair) -> dict[str, Any]:
    """The image of a pair as ``datasets`` stores it."""
    return {"bytes": pair.image, "path": f"{pair.key}{pair.suffix}"}
