"""Tables of numbered rows whose images tell their number, for tests that must not reach the network."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from visplay.data.images.image_folder import UnusableItemError

STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def encode(number: int = 0, size: tuple[int, int] = (12, 10)) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", size, (number % 256, number // 256, 9)).save(buffer, "PNG")
    return buffer.getvalue()


def number(image: Image.Image) -> int:
    assert image.mode == "RGB"
    red, green, blue = image.getpixel((0, 0))
    assert blue == 9
    return red + 256 * green


def struct(number: int) -> dict:
    return {"bytes": encode(number), "path": None}


def rows(count: int, start: int = 0, **columns) -> pa.Table:
    """Rows as the published training set has them: problem, answer, images (a list of structs)."""
    numbers = range(start, start + count)
    table = {
        "problem": [f"<image>\nQuestion {n}? " for n in numbers],
        "answer": [f" {n}" for n in numbers],
        "images": pa.array([[struct(n)] for n in numbers], pa.list_(STRUCT)),
    }
    return pa.table({**table, **columns})


def write(path: Path, **columns) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def keys(items) -> list[str]:
    return [items[index].key for index in range(len(items))]


def unusable(items, index: int) -> str:
    with pytest.raises(UnusableItemError) as caught:
        items[index]
    assert str(caught.value) == f"{caught.value.key}: {caught.value.reason}"
    return str(caught.value)
