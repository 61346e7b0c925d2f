"""Images from a cell of a table, whatever its shape: struct, bytes, base64 text, path, image or a list of them."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from visplay.data.images.decoding import (
    FORMATS,
    DecodeError,
    ImageLimits,
    decode_errors,
    decode_image,
    describe_error,
    load_image,
    to_rgb,
)

SHAPES = (
    "a struct of bytes and path, bytes, base64 text, the path of a file, a PIL image, a list of these, or null for none"
)

_DATA_URL = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)
_ANY_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
# How encoded files of FORMATS begin; a BMP's four reserved bytes are zero.
_SIGNATURE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|BM....\0\0\0\0|II\*\0|MM\0\*|II\+\0|MM\0\+"
    rb"|....ftyp(?:avi[fs]|hei[cfmsx]|hev[cmsx]|mif1|msf1)|\0\0\0\x0cjP  |\xff\x4f\xff\x51|qoif|P[1-6Ff]\s",
    re.DOTALL,
)
_SHOWN_CHARACTERS = 60


def read_images(
    value: object,
    directory: str | Path | None = None,
    limits: ImageLimits | None = ImageLimits(),  # noqa: B008 (frozen)
) -> tuple[Image.Image, ...]:
    """Decode the images of one cell to upright RGB.

    Args:
        value: The cell, see ``SHAPES``. Text is base64 when it says so (``data:image/png;base64,...``) or when all of
            it is base64 of a file of a known format; all other text is a path. Of a struct the bytes count, and the
            path only where there are none. A null in a list is no image.
        directory: Where relative paths start; without it they are rejected.
        limits: Checked by the header of each image before it is decoded; None for no limits.

    Returns:
        The images, in order; none for an empty cell.

    Raises:
        ValueError: If the cell has another shape, or one of its images does not decode or breaks a limit.
    """
    return tuple(read_image(image, directory, limits) for image in split_images(value))


def count_images(value: object) -> int:
    """Count the images of one cell without decoding them; a ValueError if it has none of the ``SHAPES``.

    Example:
        >>> count_images(None), count_images("a.png"), count_images([b"...", None, {"path": "a.png"}])
        (0, 1, 2)
    """
    return len(split_images(value))


def split_images(value: object) -> tuple[Any, ...]:
    """Take a cell apart into those of its single images, undecoded; a ValueError if it has none of the ``SHAPES``."""
    if isinstance(value, list | tuple):
        return tuple(image for part in value for image in split_images(part))
    if isinstance(value, Mapping):
        if not {"bytes", "path"} & value.keys():
            raise ValueError(f"a struct of {sorted(map(str, value))}; a cell must hold {SHAPES}")
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if value is None or (isinstance(value, str) and not value):
        return ()
    if not isinstance(value, bytes | bytearray | memoryview | str | Path | Image.Image):
        raise ValueError(f"{_show(value)}; a cell must hold {SHAPES}")
    return (value,)


def read_image(
    value: object,
    directory: str | Path | None = None,
    limits: ImageLimits | None = ImageLimits(),  # noqa: B008 (frozen)
    *,
    from_hub: bool = False,
) -> Image.Image:
    """Decode one image that ``split_images`` gave, see ``read_images``; a ValueError tells what was found.

    A table ``from_hub`` has no say in which files of this machine are read.
    """
    try:
        with decode_errors():
            if isinstance(value, Image.Image):
                if limits is not None:
                    limits.check(*value.size)
                return to_rgb(value)
            if isinstance(value, bytes | bytearray | memoryview):
                return decode_image(bytes(value), limits)
            if (data := _decode_base64(value)) is not None:
                return decode_image(data, limits)
            if from_hub:
                raise ValueError("a path, in a table of the Hub, which must hold its images")
            return load_image(_locate(value, directory), limits)
    except DecodeError as error:
        raise DecodeError(f"{_show(value)}: {error}") from error


def encoded_image(value: object, directory: str | Path | None = None) -> bytes:
    """The bytes of an image in a table's cell, as ``split_images`` gave it, that ``read_image`` could read."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    data = _decode_base64(value)
    return _locate(value, directory).read_bytes() if data is None else data


def find_column(names: list[str], wanted: str | None) -> str:
    """Choose the column of images: the wanted one, or the first of images, image, img, picture, pictures.

    Raises:
        ValueError: If there is none; the message lists the columns.
    """
    candidates = ("images", "image", "img", "picture", "pictures") if wanted is None else (wanted,)
    for name in candidates:
        if name in names:
            return name
    raise ValueError(f"{' or '.join(map(repr, candidates))} is none of its columns {names}")


def count_per_row(column: pa.ChunkedArray) -> np.ndarray:
    """Count the images of every cell of a column, as ``count_images``, from its null bits and offsets alone.

    Returns:
        One count per row, int64; the bytes of the images are not read, so a memory-mapped column stays on the disk.

    Raises:
        ValueError: If the column's type holds no images.
    """

    def count(array: pa.Array) -> np.ndarray:
        kind = array.type
        if pa.types.is_null(kind):
            return np.zeros(len(array), np.int64)
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            parents = np.asarray(pc.list_parent_indices(array), dtype=np.int64)
            counts = count(pc.list_flatten(array))
            return np.bincount(parents, weights=counts, minlength=len(array)).astype(np.int64)
        return np.asarray(_present(array)).astype(np.int64)

    return np.concatenate([np.zeros(0, np.int64), *map(count, column.chunks)])


def _present(array: pa.Array) -> pa.Array:
    kind = array.type
    if pa.types.is_struct(kind) and {"bytes", "path"} & {field.name for field in kind}:
        parts = [_present(pc.struct_field(array, field.name)) for field in kind if field.name in ("bytes", "path")]
        return parts[0] if len(parts) == 1 else pc.or_(*parts)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pc.fill_null(pc.greater(pc.binary_length(array), 0), False)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_null(kind):
        return pc.is_valid(array)
    raise ValueError(f"a column of {kind} holds no images; a cell must hold {SHAPES}")


def _decode_base64(text: object) -> bytes | None:
    """The bytes of an image that is base64 text, or None if the text is something else."""
    if not isinstance(text, str):
        return None
    if prefix := _DATA_URL.match(text):
        return base64.b64decode(_pad(text[prefix.end() :]), validate=True)
    try:
        if not _SIGNATURE.match(base64.b64decode(text.lstrip()[:24], validate=True)):
            return None
    except (binascii.Error, ValueError):
        return None
    body = "".join(text.split())
    return base64.b64decode(_pad(body)) if _BASE64.fullmatch(body) else None


def _pad(text: str) -> str:
    body = "".join(text.split()).rstrip("=")
    return body + "=" * (-len(body) % 4)


def _locate(value: object, directory: str | Path | None) -> Path:
    text = str(value)
    if _ANY_URL.match(text):
        raise ValueError(f"a web address is not fetched; a cell must hold {SHAPES}")
    path = Path(text)
    if not path.is_absolute() and directory is None:
        raise ValueError("a relative path, and there is no directory that it starts from")
    try:
        path = Path(directory or "", path)
        path.stat()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"neither base64 of an image ({', '.join(FORMATS)}) nor a file: {describe_error(error)}"
        ) from error
    return path


def _show(value: object) -> str:
    """What was found, in a few words."""
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value)} bytes"
    if isinstance(value, Image.Image):
        return f"image {value.mode} {value.width}x{value.height}"
    text = value if isinstance(value, str) else str(value)
    shown = repr(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "...")
    return f"text {shown}" if isinstance(value, str) else f"{type(value).__name__} {shown}"
