"""verl and EasyR1: parquet files for their ``RLHFDataset``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets

from visplay.data_engine.exports.parquet_file import IMAGES, MESSAGES, NUMBER, TEXT, image_cell, write_pairs
from visplay.data_engine.pairs import Pair

_MARK = "<image>"


def write_verl(pairs: Iterable[Pair], directory: Path, name: str) -> None:
    """Write ``train.parquet`` as verl's own examples prepare geometry3k; a rule of yours rewards ``data_source``."""
    information = {"split": TEXT, "index": datasets.Value("int64"), "answer": TEXT, "question": TEXT}
    features = {
        "data_source": TEXT,
        "prompt": MESSAGES,
        "images": IMAGES,
        "ability": TEXT,
        "reward_model": {"style": TEXT, "ground_truth": TEXT},
        "extra_info": information | {"key": TEXT, "confidence": NUMBER},
    }

    def as_row(number: int, pair: Pair) -> dict[str, Any]:
        extra = {"split": "train", "index": number, "answer": pair.answer, "question": pair.question}
        return {
            "data_source": name,
            "prompt": pair.messages(_MARK),
            "images": [image_cell(pair)],
            "ability": pair.kind,
            "reward_model": {"style": "rule", "ground_truth": pair.answer},
            "extra_info": extra | {"key": pair.key, "confidence": pair.confidence},
        }

    write_pairs(directory / "train.parquet", features, pairs, as_row)


def write_easyr1(pairs: Iterable[Pair], directory: Path, name: str) -> None:
    """Write ``train.parquet`` for ``data.prompt_key: problem``, ``answer_key: answer`` and ``image_key: images``.

    EasyR1 itself adds how to answer (``data.format_prompt``).
    """
    features = {"problem": TEXT, "answer": TEXT, "images": IMAGES, "problem_type": TEXT, "score": NUMBER, "key": TEXT}

    def as_row(_: int, pair: Pair) -> dict[str, Any]:
        return {
            "problem": _MARK + pair.question,
            "answer": pair.answer,
            "images": [image_cell(pair)],
            "problem_type": pair.kind,
            "score": pair.confidence,
            "key": pair.key,
        }

    write_pairs(directory / "train.parquet", features, pairs, as_row)
