"""Unlabeled images from a directory: every file is checked once, a bad one is counted and never raised."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch.utils.data import Dataset

from visplay.data.decoding import DECODE_ERRORS, ImageLimits, decode_image, describe_error, load_image, to_rgb
from visplay.types import UnlabeledImage

__all__ = [
    "DECODE_ERRORS",
    "EXTENSIONS",
    "ImageFolder",
    "ImageLimits",
    "SkippedImage",
    "UnusableItemError",
    "decode_image",
    "to_rgb",
]

logger = logging.getLogger(__name__)

EXTENSIONS = frozenset({".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

_SHOWN_REASONS = 5
_MAX_THREADS = 8


@dataclass(frozen=True)
class SkippedImage:
    """A file that looked like an image and is not used.

    Args:
        path: POSIX path relative to the directory; bytes that are not UTF-8 are written as escapes.
        reason: What is wrong with it.
    """

    path: str
    reason: str


class UnusableItemError(ValueError):
    """An item of a data set that cannot be used: the caller counts it and draws the next.

    Args:
        key: Identity of the item.
        reason: What is wrong with it.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(key, reason)
        self.key = key
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}"


class ImageFolder(Dataset[UnlabeledImage]):
    """Unlabeled images below a directory, sorted by their path relative to it, which is also their key.

    Files are taken by extension (``EXTENSIONS``, in either case) and read by content (``FORMATS``; the first frame of
    an animation). The constructor decodes every file once, in a few threads and without keeping an image, so that a
    broken one is known before training starts. Links to directories are followed, but never to a directory above the
    link.

    Args:
        root: The directory.
        limits: An image that breaks them, by its header, is skipped undecoded.

    Attributes:
        keys: The keys of the images, sorted.
        skipped: The files that are not used and why, sorted by path.

    Raises:
        FileNotFoundError: If ``root`` does not exist.
        ValueError: If ``root`` is not a directory or holds no usable image.
    """

    def __init__(self, root: str | Path, limits: ImageLimits = ImageLimits()) -> None:  # noqa: B008 (frozen)
        self.root = Path(root)
        self.limits = limits
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
            OSError: If the file has vanished or broken since the directory was scanned.
        """
        key = self.keys[index]
        try:
            return UnlabeledImage(key=key, image=self._load(key))
        except DECODE_ERRORS as error:
            raise OSError(
                f"root: {self.root / key} was a good image when the directory was scanned and is not now: "
                f"{describe_error(error)}"
            ) from error

    def _check_arguments(self) -> None:
        if not self.root.exists():
            raise FileNotFoundError(f"root: {str(self.root)!r} does not exist; give a directory of images")
        if not self.root.is_dir():
            raise ValueError(f"root: {str(self.root)!r} is not a directory; give a directory of images")

    def _find_faults(self, keys: list[str]) -> dict[str, str]:
        with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
            reasons = pool.map(self._fault, keys)
            return {key: reason for key, reason in zip(keys, reasons, strict=True) if reason is not None}

    def _fault(self, key: str) -> str | None:
        try:
            self._load(key)
        except DECODE_ERRORS as error:
            return describe_error(error)
        return None

    def _load(self, key: str) -> Image.Image:
        key.encode()  # a name that is not UTF-8 could be neither hashed nor stored
        return load_image(self.root / key, self.limits)

    def _report(self) -> None:
        shown = [f"{item.path!r} ({item.reason})" for item in self.skipped[:_SHOWN_REASONS]]
        more = ["..."] if len(self.skipped) > _SHOWN_REASONS else []
        summary = f"skipped {len(self.skipped)}: {', '.join(shown + more)}"
        if not self.keys:
            found = summary if self.skipped else f"no file in it ends in one of {', '.join(sorted(EXTENSIONS))}"
            raise ValueError(f"root: {str(self.root)!r} must hold at least one usable image; {found}")
        if self.skipped:
            logger.warning("%s: %d images, %s", self.root, len(self.keys), summary)


def _list_files(root: Path) -> tuple[list[str], dict[str, str]]:
    """Sorted keys of the files with a known extension, and the directories that could not be read with the reason."""
    keys: list[str] = []
    unreadable: dict[str, str] = {}

    def note(error: OSError) -> None:
        unreadable[os.path.relpath(error.filename, root)] = describe_error(error)

    for directory, names in _walk(root, note):
        keys += [(directory / name).relative_to(root).as_posix() for name in names if _has_extension(name)]
    return sorted(keys), unreadable


def _walk(root: Path, on_error: Callable[[OSError], None]) -> Iterator[tuple[Path, list[str]]]:
    """Visit each directory below ``root`` once, real ones before linked ones, so that links never change a real key."""
    seen: set[tuple[int, int]] = set()
    pending = [root]
    for top in pending:  # grows while it is read
        for directory, subdirectories, names in os.walk(top, onerror=on_error):
            status = os.stat(directory)
            if (status.st_dev, status.st_ino) in seen:
                subdirectories.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            subdirectories.sort()
            pending += [link for name in subdirectories if _leads_aside(link := Path(directory, name))]
            yield Path(directory), names


def _leads_aside(path: Path) -> bool:
    """Whether this is a link to a directory that does not contain the link itself."""
    return path.is_symlink() and not path.parent.resolve().is_relative_to(path.resolve())


def _has_extension(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def _printable(path: str) -> str:
    return os.fsencode(path).decode(errors="backslashreplace")
