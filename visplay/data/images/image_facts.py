"""What is known of an image besides its pixels: its bytes and their hash, its licence, and whose it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Literal

from PIL import Image
from PIL.ExifTags import Base as ExifTag

from visplay.data.generated import PngEncoder
from visplay.data.images.decoding import DecodeError, decode_errors
from visplay.data.images.image_folder import ImageFolder
from visplay.data.table_collections import LICENCES, ORIGINS, ImageTable
from visplay.types import UnlabeledImage


@dataclass(frozen=True)
class ImageFacts:
    """What is known of an image.

    Args:
        encoded: The bytes of its file, or a PNG of its pixels where the source keeps no bytes.
        sha256: Of these bytes, or of the pixels: width, height and RGB values.
        hashed: Which of the two.
        licence: As a column of its table or its EXIF (``Copyright``) says; None where neither does.
        attribution: Whose it is, from a column or EXIF (``Artist``).
    """

    encoded: bytes = field(repr=False)
    sha256: str
    hashed: Literal["file", "pixels"]
    licence: str | None = None
    attribution: str | None = None


def file_facts(images: ImageFolder | ImageTable, key: str) -> ImageFacts:
    """What is known of an image of a collection that keeps its bytes; it is not decoded.

    Args:
        images: The collection.
        key: Of the image.
    """
    encoded = images.encoded(key)
    described = images.described(key) if isinstance(images, ImageTable) else {}
    licence, attribution = _first(described, LICENCES), _first(described, ORIGINS)
    copyright_notice, artist = _read_exif(encoded)
    digest = hashlib.sha256(encoded).hexdigest()
    return ImageFacts(encoded, digest, "file", licence or copyright_notice, attribution or artist)


def pixel_facts(item: UnlabeledImage) -> ImageFacts:
    """What is known of an image of any other collection.

    Raises:
        ValueError: There is no image.
    """
    if item.image is None:
        raise ValueError(f"images: {item.key!r} has no image")
    return ImageFacts(PngEncoder()(item.image), hash_pixels(item.image), "pixels")


def hash_pixels(image: Image.Image) -> str:
    """Identify an image by its width, height and pixels, as 64 hexadecimal digits of SHA-256."""
    found = hashlib.sha256(f"{image.width}x{image.height}:".encode())
    found.update(image.tobytes())
    return found.hexdigest()


def _first(described: Mapping[str, str], names: Sequence[str]) -> str | None:
    return next((described[name] for name in names if name in described), None)


def _read_exif(encoded: bytes) -> tuple[str | None, str | None]:
    """Copyright and artist; None where there is none, or EXIF cannot be read."""
    try:
        with decode_errors(), Image.open(BytesIO(encoded)) as image:
            exif = image.getexif()
            texts = [str(exif.get(tag) or "").strip(" \0") for tag in (ExifTag.Copyright, ExifTag.Artist)]
    except DecodeError:
        return None, None
    return texts[0] or None, texts[1] or None
