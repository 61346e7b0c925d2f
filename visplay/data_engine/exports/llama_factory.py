"""LLaMA-Factory: ShareGPT rows in JSON, image files beside it, and the entry for ``dataset_info.json``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from visplay.data_engine.pairs import Pair


def write_llama_factory(pairs: Iterable[Pair], directory: Path, name: str) -> None:
    """Write ``NAME.json``, ``images/`` and ``dataset_info.json``: the directory is a ``dataset_dir``.

    An image that several pairs share is written once.
    """
    (directory / "images").mkdir()
    with (directory / f"{name}.json").open("w", encoding="utf-8") as file:
        begin = "[\n"
        for pair in pairs:
            image = directory / "images" / f"{pair.image_sha256}{pair.suffix}"
            if not image.exists():
                image.write_bytes(pair.image)
            user, answer = f"<image>{pair.question}", pair.answer
            row = {
                "messages": [{"role": "user", "content": user}, {"role": "assistant", "content": answer}],
                "images": [image.relative_to(directory).as_posix()],
            }
            file.write(begin + json.dumps(row, ensure_ascii=False))
            begin = ",\n"
        file.write("\n]\n" if begin == ",\n" else "[]\n")
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    columns = {"messages": "messages", "images": "images"}
    entry = {name: {"file_name": f"{name}.json", "formatting": "sharegpt", "columns": columns, "tags": tags}}
    (directory / "dataset_info.json").write_text(json.dumps(entry, indent=2) + "\n", encoding="utf-8")
