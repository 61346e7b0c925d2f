"""Benchmarks written as the published data sets hold them: several in one parquet file, told apart by ``file_name``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from visplay.data.generated import PngEncoder, in_chunks, write_rows
from visplay.types import Example

_SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "problem": pa.string(),
        "answer": pa.string(),
        "images": pa.list_(pa.struct({"bytes": pa.binary(), "path": pa.string()})),
        "file_name": pa.string(),
        "problem_type": pa.string(),
    }
)


def write_benchmarks(path: str | Path, benchmarks: Mapping[str, Sequence[Example]]) -> None:
    """Write benchmarks into one parquet file; a file already there stays until the new one is complete.

    Read again by a ``BenchmarkSource`` with the benchmark's name as ``name`` and as ``part``, the rows have the same
    keys, texts and pixels.

    Args:
        path: The parquet file; its directory is created.
        benchmarks: Rows of each benchmark, by its name.
    """
    encode = PngEncoder()

    def row(name: str, example: Example) -> dict[str, Any]:
        return {
            "id": example.key.removeprefix(f"{name}/"),
            "problem": example.problem,
            "answer": example.answer,
            "images": [{"bytes": encode(image), "path": None} for image in example.images],
            "file_name": name,
            "problem_type": example.problem_type,
        }

    named = ((name, chunk) for name, examples in benchmarks.items() for chunk in in_chunks(examples))
    write_rows(path, _SCHEMA, ([row(name, example) for example in chunk] for name, chunk in named))
