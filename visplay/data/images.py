"""Unlabeled images from a folder: every file is checked once, a bad one is a counted value and never an exception."""

from __future__ import annotations

import logging
import os
import stat
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.ExifTags import Base as ExifTag
from torch.utils.data import Dataset

from visplay.types import UnlabeledImage

logger = logging.getLogger(__name__)

EXTENSIONS = frozenset({".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")

# What Pillow raises on broken files. Warning is among them because a run may turn warnings into errors.
DECODE_ERRORS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Warning,
    struct.error,
    Image.DecompressionBombError,
)

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SHOWN_REASONS = 5
_MAX_THREADS = 8


@dataclass(frozen=True)
class SkippedImage:
    """A file that looked like an image and is not used.

    Args:
        path: POSIX path relative to the folder; bytes that are not UTF-8 are written as escapes.
        reason: What is wrong with it.
    """

    path: str
    reason: str


class ImageFolder(Dataset[UnlabeledImage]):
    """Unlabeled images below a folder, sorted by their path relative to it, which is also their key.

    Files are taken by extension (``EXTENSIONS``, in either case) and read by content (``FORMATS``; the first frame of
    an animation). The constructor decodes every file once, in a few threads and without keeping a picture, so that a
    broken one is known before training starts. Links to folders are followed, but never to a folder above the link.

    Args:
        root: The folder.
        min_side_pixels: A picture with a shorter side is skipped.
        max_pixels: A picture of a larger area, by its header, is skipped undecoded. Pillow's own limit applies as well.
        max_aspect_ratio: A picture whose longer side exceeds the shorter one by this factor is skipped; Qwen2.5-VL's
            processor refuses more than 200.

    Attributes:
        keys: The keys of the images, sorted.
        skipped: The files that are not used and why, sorted by path.

    Raises:
        FileNotFoundError: If ``root`` does not exist.
        ValueError: If ``root`` is not a folder or holds no usable image, or a limit is below 1.
    """

    def __init__(
        self,
        root: str | Path,
        min_side_pixels: int = 8,
        max_pixels: int = 2**26,
        max_aspect_ratio: float = 200.0,
    ) -> None:
        self.root = Path(root)
        self.min_side_pixels = min_side_pixels
        self.max_pixels = max_pixels
        self.max_aspect_ratio = max_aspect_ratio
        self._check_arguments()
        candidates, unreadable = _list_files(self.root)
        faults = self._find_faults(candidates)
        self.keys = tuple(key for key in candidates if key not in faults)
        bad = [SkippedImage(_printable(key), reason) for key, reason in (*faults.items(), *unreadable.items())]
        self.skipped = tuple(sorted(bad, key=lambda item: item.path))
        self._report()

    def __len__(self) -> int:
        """Number of usable images."""
        return len(self.keys)

    def __getitem__(self, index: int) -> UnlabeledImage:
        """Load one image.

        Raises:
            IndexError: If there is no such index.
            OSError: If the file has vanished or broken since the folder was scanned.
        """
        key = self.keys[index]
        try:
            return UnlabeledImage(key=key, image=self._load(key))
        except DECODE_ERRORS as error:
            raise OSError(
                f"root: {self.root / key} was a good image when the folder was scanned and is not now: "
                f"{_describe(error)}"
            ) from error

    def _check_arguments(self) -> None:
        for name in ("min_side_pixels", "max_pixels", "max_aspect_ratio"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        if not self.root.exists():
            raise FileNotFoundError(f"root: {str(self.root)!r} does not exist; give a folder of images")
        if not self.root.is_dir():
            raise ValueError(f"root: {str(self.root)!r} is not a folder; give a folder of images")

    def _find_faults(self, keys: list[str]) -> dict[str, str]:
        with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
            reasons = pool.map(self._fault, keys)
            return {key: reason for key, reason in zip(keys, reasons, strict=True) if reason is not None}

    def _fault(self, key: str) -> str | None:
        try:
            self._load(key)
        except DECODE_ERRORS as error:
            return _describe(error)
        return None

    def _load(self, key: str) -> Image.Image:
        key.encode()  # a name that is not UTF-8 could be neither hashed nor stored
        path = self.root / key
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("not a regular file")
        with Image.open(path, formats=FORMATS) as image:
            self._check_size(*image.size)
            return to_rgb(image)

    def _check_size(self, width: int, height: int) -> None:
        short, long = sorted((width, height))
        if short < self.min_side_pixels:
            raise ValueError(f"{width}x{height} pixels; min_side_pixels is {self.min_side_pixels}")
        if width * height > self.max_pixels:
            raise ValueError(f"{width}x{height} pixels; max_pixels is {self.max_pixels}")
        if long > self.max_aspect_ratio * short:
            raise ValueError(f"{width}x{height} pixels; max_aspect_ratio is {self.max_aspect_ratio}")

    def _report(self) -> None:
        shown = [f"{item.path!r} ({item.reason})" for item in self.skipped[:_SHOWN_REASONS]]
        more = ["..."] if len(self.skipped) > _SHOWN_REASONS else []
        summary = f"skipped {len(self.skipped)}: {', '.join(shown + more)}"
        if not self.keys:
            found = summary if self.skipped else f"no file in it ends in one of {', '.join(sorted(EXTENSIONS))}"
            raise ValueError(f"root: {str(self.root)!r} must hold at least one usable image; {found}")
        if self.skipped:
            logger.warning("%s: %d images, %s", self.root, len(self.keys), summary)


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn any picture into upright 8-bit RGB without metadata; the picture given is left as it is, but loaded.

    The EXIF orientation is applied, transparent parts become white, 16-bit grey is scaled to 8 bits, and grey of
    32 bits or in floating point, whose white is not defined, is stretched from its darkest to its brightest pixel.

    Raises:
        ValueError: If Pillow knows no way to RGB, for example from grey with premultiplied alpha.

    Example:
        >>> to_rgb(Image.new("LA", (2, 1), (0, 0))).getpixel((0, 0))
        (255, 255, 255)
    """
    image.load()
    orientation = _orientation(image)
    rgb = _flatten(image)
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    rgb.info = {}  # an orientation or colour key kept here would act a second time when the picture is saved
    return rgb


def decode_image(data: bytes) -> Image.Image:
    """Decode an image file held in memory to upright 8-bit RGB, see ``to_rgb``.

    Raises:
        OSError, ValueError or another of ``DECODE_ERRORS``: If the bytes are not a sound image of one of ``FORMATS``.
    """
    with Image.open(BytesIO(data), formats=FORMATS) as image:
        return to_rgb(image)


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(ExifTag.Orientation)
    except DECODE_ERRORS:
        return None  # broken metadata of a sound picture


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _flatten_16_bit(image)
    if image.mode in {"I", "F"}:
        return _flatten_unbounded(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _flatten_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.uint32)
    levels = ((values * 255 + 32767) // 65535).astype(np.uint8)
    levels[values == image.info.get("transparency", -1)] = 255
    return Image.fromarray(levels).convert("RGB")


def _flatten_unbounded(image: Image.Image) -> Image.Image:
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
    low, high = values.min(), values.max()
    scale = 255.0 / (high - low) if high > low else 0.0
    return Image.fromarray(np.rint((values - low) * scale).astype(np.uint8)).convert("RGB")


def _list_files(root: Path) -> tuple[list[str], dict[str, str]]:
    """Sorted keys of the files with a known extension, and the folders that could not be read with the reason."""
    keys: list[str] = []
    unreadable: dict[str, str] = {}

    def note(error: OSError) -> None:
        unreadable[os.path.relpath(error.filename, root)] = _describe(error)

    for folder, names in _walk(root, note):
        keys += [(folder / name).relative_to(root).as_posix() for name in names if _has_extension(name)]
    return sorted(keys), unreadable


def _walk(root: Path, on_error: Callable[[OSError], None]) -> Iterator[tuple[Path, list[str]]]:
    """Visit each folder below ``root`` once, real ones before linked ones, so that links never change a real key."""
    seen: set[tuple[int, int]] = set()
    pending = [root]
    for top in pending:  # grows while it is read
        for folder, subfolders, names in os.walk(top, onerror=on_error):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                subfolders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            subfolders.sort()
            pending += [link for name in subfolders if _leads_aside(link := Path(folder, name))]
            yield Path(folder), names


def _leads_aside(path: Path) -> bool:
    """Whether this is a link to a folder that does not contain the link itself."""
    return path.is_symlink() and not path.parent.resolve().is_relative_to(path.resolve())


def _has_extension(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def _printable(path: str) -> str:
    return os.fsencode(path).decode(errors="backslashreplace")


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
