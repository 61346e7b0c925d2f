"""lmms-eval: a parquet file, and a task in YAML that needs no code."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import yaml

from visplay.data_engine.exports.parquet_file import NUMBER, TEXT, image_cell, write_pairs
from visplay.data_engine.pairs import Pair

_MOST_TOKENS = 32


def write_lmms_eval(pairs: Iterable[Pair], directory: Path, name: str, place: Path | None = None) -> None:
    """Write ``test.parquet`` and ``NAME.yaml``, for ``--include_path DIRECTORY --tasks NAME``.

    Args:
        pairs: The pairs.
        directory: Where to write.
        name: Of the task.
        place: Where the directory will be in the end, which the task names.
    """
    features = {
        "prompt": TEXT,
        "image": datasets.Image(),
        "answer": TEXT,
        "question": TEXT,
        "question_type": TEXT,
        "confidence": NUMBER,
        "key": TEXT,
    }

    def as_row(_: int, pair: Pair) -> dict[str, Any]:
        return {
            "prompt": f"{pair.question}\nAnswer the question using a single word or phrase.",
            "image": image_cell(pair),
            "answer": pair.answer,
            "question": pair.question,
            "question_type": pair.kind,
            "confidence": pair.confidence,
            "key": pair.key,
        }

    write_pairs(directory / "test.parquet", features, pairs, as_row)
    matching = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
    task = {
        "task": name,
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {"test": str((place or directory).resolve() / "test.parquet")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_visual": "image",
        "doc_to_text": "prompt",
        "doc_to_target": "answer",
        "generation_kwargs": {"max_new_tokens": _MOST_TOKENS, "temperature": 0, "do_sample": False},
        "metric_list": [matching | {"ignore_case": True, "ignore_punctuation": True}],
        "metadata": [{"version": 0.0}],
    }
    (directory / f"{name}.yaml").write_text(yaml.safe_dump(task, sort_keys=False), encoding="utf-8")
