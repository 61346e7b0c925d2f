"""The pairs that ``visplay predict`` has written, one after the other, as an export takes them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from PIL.ExifTags import Base as ExifTag

from visplay.data.generated import PngEncoder
from visplay.data.images.decoding import decode_errors, decode_image
from visplay.data_engine.predictor import SETTINGS_FILE
from visplay.data_engine.rows import IMAGE

_ROWS_READ = 64
_PLACEHOLDER = re.compile(r"<(image|video|audio)>")
_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png"}


@dataclass(frozen=True)
class Pair:
    """A question with its silver answer.

    Args:
        key: Of the row.
        question: The question, without placeholders that a trainer would take for an image.
        kind: Its type.
        answer: The silver answer.
        confidence: Of the vote.
        image: A JPEG or PNG file that is upright.
        suffix: Of its name.
        image_sha256: What the row names it by.
        templates: The prompts of both roles, each with "system" and "user".
    """

    key: str
    question: str
    kind: str
    answer: str
    confidence: float
    image: bytes = field(repr=False)
    suffix: str
    image_sha256: str
    templates: Mapping[str, Any] = field(repr=False)

    def messages(self, mark: str = "") -> list[dict[str, str]]:
        """The question as the Reasoner was asked it, system message included; ``mark`` begins the user's message."""
        template = self.templates["reasoner"]
        user = {"role": "user", "content": mark + template["user"].format(question=self.question)}
        return [{"role": "system", "content": template["system"]}, user] if template["system"] else [user]


class Pairs:
    """The pairs of a directory that ``visplay predict`` wrote; each iteration reads them anew, a few at a time.

    Args:
        directory: The directory.
        images: Where the images are, if the rows do not have them; None is where they were when it was written.
        rejected: Whether questions that a gate rejected are among them; those without a silver answer never are.

    Raises:
        FileNotFoundError: The directory holds nothing of ``visplay predict``.
    """

    def __init__(self, directory: Path, images: Path | None = None, *, rejected: bool = False) -> None:
        settings = directory / SETTINGS_FILE
        if not settings.is_file():
            raise FileNotFoundError(
                f"directory: {str(directory)!r} is not what visplay predict wrote: no {SETTINGS_FILE}"
            )
        self.directory = directory
        self.rejected = rejected
        source = json.loads(settings.read_bytes())["images"]["data"].get("path")
        self.images = images or (None if source is None else Path(source))

    def __iter__(self) -> Iterator[Pair]:
        """Read them in order.

        Raises:
            OSError: An image is gone.
            ValueError: A part is damaged, or an image is another now, or is not to be had.
        """
        for part in sorted((self.directory / "data").glob("part-*.parquet")):
            try:
                for batch in pq.ParquetFile(part, page_checksum_verification=True).iter_batches(_ROWS_READ):
                    for row in batch.to_pylist():
                        if row["silver_answer"] is not None and (row["kept"] or self.rejected):
                            yield self._pair(row)
            except pa.ArrowException as error:
                raise ValueError(f"directory: {part} is damaged: {error}") from error

    def _pair(self, row: dict[str, Any]) -> Pair:
        image, suffix = portable_image(self._encoded(row))
        return Pair(
            row["key"],
            _PLACEHOLDER.sub(r"[\1]", row["question"]),
            row["question_type"],
            row["silver_answer"],
            row["confidence"],
            image,
            suffix,
            row["image_sha256"],
            json.loads(row["prompts"]),
        )

    def _encoded(self, row: dict[str, Any]) -> bytes:
        if IMAGE in row:
            return row[IMAGE]["bytes"]
        path = PurePosixPath(row["image_path"])
        if self.images is None or not self.images.is_dir() or path.is_absolute() or ".." in path.parts:
            raise ValueError(
                f"images: {row['image_path']!r} is no file of a directory ({str(self.images)!r}); give the directory, "
                "or write the images into the rows: visplay predict --embed-images"
            )
        encoded = (self.images / path).read_bytes()
        if hashlib.sha256(encoded).hexdigest() != row["image_sha256"]:
            raise ValueError(f"images: {str(self.images / path)!r} has changed since it was asked about")
        return encoded


def portable_image(encoded: bytes) -> tuple[bytes, str]:
    """An image file that every tool reads alike, and the suffix of its name.

    An upright JPEG or PNG in RGB or grey is left as it is; others become PNG, as the model saw them.

    Raises:
        DecodeError: It is no image.
    """
    with decode_errors(), Image.open(BytesIO(encoded)) as image:
        upright = image.getexif().get(ExifTag.Orientation, 1) == 1
        if upright and image.mode in ("RGB", "L") and image.format in _SUFFIXES:
            return encoded, _SUFFIXES[image.format]
    return PngEncoder()(decode_image(encoded)), ".png"
