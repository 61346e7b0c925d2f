"""Images from bytes that nobody vouches for: limits by the header before anything is decoded, then upright RGB."""

from __future__ import annotations

import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import reduce
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base as ExifTag
from PIL.TiffImagePlugin import TiffImageFile

with suppress(ImportError):
    import_module("pillow_heif").register_heif_opener()

# AVIF needs Pillow 11.3, HEIF the package pillow-heif. Left out is what has no signature, holds other files, or is run
# as a program, as EPS is: a file is read by its content, whatever its name says.
_WANTED = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP", "AVIF", "HEIF", "JPEG2000", "PPM", "QOI")
FORMATS = tuple(name for name in _WANTED if name in Image.registered_extensions().values())
EXTENSIONS = frozenset({".mpo", *(end for end, name in Image.registered_extensions().items() if name in FORMATS)})

# Images above this area are decoded one at a time, however many threads there are; smaller ones take 64 MiB at most.
_LARGE_PIXELS = 2**24
# Modes other than RGB are converted in strips of about this area, so that intermediate copies stay small.
_STRIP_PIXELS = 2**20
_one_large_image = threading.Lock()


class DecodeError(ValueError):
    """An image that cannot be used: its decoder raised something, it breaks a limit, or it cannot be read."""


@contextmanager
def decode_errors() -> Iterator[None]:
    """Turn whatever a decoder raises into a ``DecodeError`` of one line, but that the memory is at its end.

    A decoder is given bytes that nobody vouches for, and what it makes of them is no list of errors by name.
    """
    try:
        yield
    except (DecodeError, MemoryError):
        raise
    except Exception as error:
        raise DecodeError(describe_error(error)) from error


@dataclass(frozen=True)
class ImageLimits:
    """What an image must keep to, judged by its header before anything is decoded.

    Args:
        min_side_pixels: Least length of the shorter side.
        max_pixels: Greatest area. Pillow's own limit (about 179 million pixels) applies as well.
        max_aspect_ratio: Greatest ratio of the sides, longer to shorter; Qwen2.5-VL's processor rejects more than 200.

    Raises:
        ValueError: If a limit is below 1.
    """

    min_side_pixels: int = 8
    max_pixels: int = 2**26
    max_aspect_ratio: float = 200.0

    def __post_init__(self) -> None:
        """Check the limits themselves."""
        for name, value in vars(self).items():
            if not value >= 1:
                raise ValueError(f"{name} must be at least 1, got {value!r}")

    def check(self, width: int, height: int) -> None:
        """Raise a ValueError, with the size in pixels and the limit, if an image of this size breaks one."""
        short, long = sorted((width, height))
        if short < self.min_side_pixels:
            raise ValueError(f"{width}x{height} pixels; min_side_pixels is {self.min_side_pixels}")
        if width * height > self.max_pixels:
            raise ValueError(f"{width}x{height} pixels; max_pixels is {self.max_pixels}")
        if long > self.max_aspect_ratio * short:
            raise ValueError(f"{width}x{height} pixels; max_aspect_ratio is {self.max_aspect_ratio}")


def load_image(path: Path, limits: ImageLimits | None = None) -> Image.Image:
    """Decode an image file to upright 8-bit RGB, see ``to_rgb``; the first frame of an animation.

    Args:
        path: A regular file; others, which might block or never end, are not opened.
        limits: Checked before anything is decoded; None for no limits but Pillow's.

    Raises:
        DecodeError: If it cannot be read, breaks a limit or is no sound image of one of ``FORMATS``.
    """
    with decode_errors():
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("not a regular file")
        with path.open("rb") as file:
            return _decode(file, limits)


def decode_image(data: bytes, limits: ImageLimits | None = None) -> Image.Image:
    """Decode an image file in memory, as ``load_image`` does and with its errors."""
    with decode_errors():
        return _decode(BytesIO(data), limits)


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn any image into upright 8-bit RGB without metadata; the image given is left as it is, but loaded.

    The EXIF orientation is applied, transparent parts become white, 16-bit grey is scaled to 8 bits, and grey of
    32 bits or in floating point, whose white is not defined, is scaled from its darkest to its brightest pixel.

    Raises:
        ValueError: If Pillow knows no way to RGB, for example from grey with premultiplied alpha.
    """
    image.load()
    orientation = 1
    with suppress(DecodeError), decode_errors():  # broken metadata of a sound image
        orientation = image.getexif().get(ExifTag.Orientation, 1)
    rgb = _flatten(image)
    rgb.info = {}  # an orientation or colour key kept here would act a second time when the image is saved
    if orientation in range(2, 9):
        rgb.getexif()[ExifTag.Orientation] = orientation  # alone: the rest of the metadata may not survive a rewrite
        ImageOps.exif_transpose(rgb, in_place=True)
    return rgb


def describe_error(error: BaseException) -> str:
    """One line for a reason: the error's type and message."""
    return f"{type(error).__name__}: {error}"


class _Silence(threading.local):
    """Ignores warnings in the thread that is inside; what ``warnings.catch_warnings`` does, it does to all threads.

    It is the message of a filter, which is asked whether it matches: everything inside, and nothing elsewhere.
    """

    inside = False

    def match(self, message: str) -> bool:
        """Whether the thread that warns is inside."""
        return self.inside

    @contextmanager
    def __call__(self) -> Iterator[None]:
        filters: list[Any] = warnings.filters  # type: ignore[assignment]
        if not filters or filters[0][1] is not self:
            filters.insert(0, ("ignore", self, Warning, None, 0))
        self.inside = True
        try:
            yield
        finally:
            self.inside = False


# What an image's odd metadata warns about must neither fill the log nor, where warnings are errors, cost the image.
_silence = _Silence()


def _decode(file: BinaryIO, limits: ImageLimits | None) -> Image.Image:
    with _silence():
        try:
            opened = Image.open(file, formats=FORMATS)
        except UnidentifiedImageError:
            file.seek(0)
            head = file.read(16)
            raise UnidentifiedImageError(f"cannot identify the image; its first bytes are {head!r}") from None
        with opened as image:
            if limits is not None:
                limits.check(*image.size)
                if isinstance(image, TiffImageFile):  # a small one may name tiles of any size; each is decoded whole
                    width, height = image.tag_v2.get(ExifTag.TileWidth, 1), image.tag_v2.get(ExifTag.TileLength, 1)
                    if width * height > limits.max_pixels:
                        raise ValueError(f"tiles of {width}x{height} pixels; max_pixels is {limits.max_pixels}")
            with _one_large_image if image.width * image.height > _LARGE_PIXELS else nullcontext():
                if image.format == "PNG" and image.tile and image.tile[0][3] == "RGB;16B":
                    _apply_key_of_16_bits(image, file)
                return to_rgb(image)


def _apply_key_of_16_bits(image: Image.Image, file: BinaryIO) -> None:
    """Make white what a PNG's colour key of 16 bits names; Pillow reads 8 bits and compares these with the key."""
    image.load()
    key = image.info.pop("transparency", None)
    if key is None:
        return
    file.seek(0)
    with Image.open(file, formats=("PNG",)) as low:
        low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]  # the lower bytes
        low.load()
        bands = [*image.split(), *low.split()]
    wanted = [value >> 8 for value in key] + [value & 255 for value in key]
    equal = [
        band.point([255 * (level == value) for level in range(256)]) for band, value in zip(bands, wanted, strict=True)
    ]
    image.paste("white", mask=reduce(ImageChops.darker, equal))


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _by_strips(image, _flatten_16_bit)
    if image.mode in {"I", "F"}:
        extremes = [(values.min(), values.max()) for values in (_finite(image.crop(box)) for box in _strips(image))]
        low, high = min(low for low, _ in extremes), max(high for _, high in extremes)
        scale = 255.0 / (high - low) if high > low else 0.0
        return _by_strips(
            image,
            lambda strip: Image.fromarray(np.rint((_finite(strip) - low) * scale).astype(np.uint8)).convert("RGB"),
        )
    if image.has_transparency_data:
        return _by_strips(image, _flatten_transparent)
    return image.convert("RGB")


def _by_strips(image: Image.Image, flatten: Callable[[Image.Image], Image.Image]) -> Image.Image:
    rgb = Image.new("RGB", image.size)
    for box in _strips(image):
        rgb.paste(flatten(image.crop(box)), box)
    return rgb


def _strips(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    height = max(1, _STRIP_PIXELS // max(1, image.width))
    for top in range(0, image.height, height):
        yield 0, top, image.width, min(top + height, image.height)


def _flatten_transparent(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _flatten_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.uint32)
    levels = ((values * 255 + 32767) // 65535).astype(np.uint8)
    levels[values == image.info.get("transparency", -1)] = 255
    return Image.fromarray(levels).convert("RGB")


def _finite(image: Image.Image) -> np.ndarray:
    return np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
