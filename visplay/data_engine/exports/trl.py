"""TRL: conversational rows with images, for ``GRPOTrainer`` and for ``SFTTrainer``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from visplay.data_engine.exports.parquet_file import IMAGES, MESSAGES, NUMBER, TEXT, image_cell, write_pairs
from visplay.data_engine.pairs import Pair

_ABOUT = {"key": TEXT, "question_type": TEXT, "confidence": NUMBER}


def write_trl(pairs: Iterable[Pair], directory: Path, name: str) -> None:
    """Write ``grpo.parquet`` (``prompt``, ``images``, ``solution``) and ``sft.parquet`` (``messages``, ``images``).

    ``trl.rewards.accuracy_reward`` reads ``solution``; the further columns are given to every reward function.
    TRL puts the image before the first user message.
    """

    def about(pair: Pair) -> dict[str, Any]:
        shared = {"key": pair.key, "question_type": pair.kind, "confidence": pair.confidence}
        return {"images": [image_cell(pair)], **shared}

    def for_grpo(_: int, pair: Pair) -> dict[str, Any]:
        return {"prompt": pair.messages(), "solution": pair.answer} | about(pair)

    def for_sft(_: int, pair: Pair) -> dict[str, Any]:
        user, answer = {"role": "user", "content": pair.question}, {"role": "assistant", "content": pair.answer}
        return {"messages": [user, answer]} | about(pair)

    grpo = {"prompt": MESSAGES, "images": IMAGES, "solution": TEXT}
    write_pairs(directory / "grpo.parquet", grpo | _ABOUT, pairs, for_grpo)
    write_pairs(directory / "sft.parquet", {"messages": MESSAGES, "images": IMAGES} | _ABOUT, pairs, for_sft)
