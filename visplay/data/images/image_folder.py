"""Unlabeled images from a directory: every file is checked once, a bad one is counted and never raised."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch.utils.data import Dataset

from visplay.data.files import LeftOut
from visplay.data.images.decoding import EXTENSIONS, DecodeError, ImageLimits, decode_errors, describe_error, load_image
from visplay.data.index_cache import read_index, write_index
from visplay.types import UnlabeledImage

logger = logging.getLogger(__name__)

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

    def count_in(self, skipped: dict[str, str]) -> None:
        """Add the reason to those by key, and log it when it is new."""
        if self.key not in skipped:
            skipped[self.key] = self.reason
            logger.warning("skipped %s: %s (%d so far)", self.key, self.reason, len(skipped))


class ImageFolder(Dataset[UnlabeledImage]):
    """Unlabeled images below a directory, sorted by their path relative to it, which is also their key.

    Files are taken by extension (``EXTENSIONS``, in either case) and read by content (``FORMATS``; the first frame of
    an animation). The constructor decodes every file once, in a few threads and without keeping an image, so that a
    broken one is known before training starts; good ones are on record in the ``datasets`` cache, and not decoded again
    at the next start unless they have changed. Links to directories are followed, but never to a directory above the
    link. What is hidden, and directories of thumbnails or of what was deleted, are never looked into.

    Args:
        root: The directory.
        limits: An image that breaks them, by its header, is skipped undecoded.

    Attributes:
        keys: The keys of the images, sorted.
        skipped: The files that are not used and why, sorted by path.
        left_out: What else the directory holds, by suffix.

    Raises:
        FileNotFoundError: If ``root`` does not exist.
        ValueError: If ``root`` is not a directory or holds no usable image.
    """

    def __init__(self, root: str | Path, limits: ImageLimits = ImageLimits()) -> None:  # noqa: B008 (frozen)
        self.root = Path(root)
        self.limits = limits
        if not self.root.exists():
            raise FileNotFoundError(f"root: {str(self.root)!r} does not exist; give a directory of images")
        if not self.root.is_dir():
            raise ValueError(f"root: {str(self.root)!r} is not a directory; give a directory of images")
        self.left_out = LeftOut()
        candidates, unusable = _list_images(self.root, self.left_out)
        states = {key: _look(self.root / key) for key in candidates}
        good: dict[str, list[int]] = read_index(*_index(self.root, limits)) or {}
        unknown = [key for key in candidates if states[key] is None or states[key] != good.get(key)]
        with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
            reasons = dict(zip(unknown, pool.map(self._find_error, unknown), strict=True))
        self.keys = tuple(key for key in candidates if reasons.get(key) is None)
        if unknown or good.keys() != {*self.keys}:
            write_index({key: states[key] for key in self.keys}, *_index(self.root, limits))
        unusable |= {key: reason for key, reason in reasons.items() if reason is not None}
        bad = [
            SkippedImage(os.fsencode(key).decode(errors="backslashreplace"), reason) for key, reason in unusable.items()
        ]
        self.skipped = tuple(sorted(bad, key=lambda item: item.path))
        shown = [f"{item.path!r} ({item.reason})" for item in self.skipped[:_SHOWN_REASONS]]
        more = ["..."] if len(self.skipped) > _SHOWN_REASONS else []
        summary = [f"skipped {len(self.skipped)}: {', '.join(shown + more)}"] if self.skipped else []
        if self.left_out:
            summary.append(f"left out {self.left_out}{_advise(self.left_out)}")
        if not self.keys:
            if not self.skipped:
                summary.insert(0, f"no file in it ends in one of {', '.join(sorted(EXTENSIONS))}")
            raise ValueError(f"root: {str(self.root)!r} must hold at least one usable image; {'; '.join(summary)}")
        if summary:
            logger.warning("%s: %d images, %s", self.root, len(self.keys), "; ".join(summary))

    def __len__(self) -> int:
        """Number of usable images."""
        return len(self.keys)

    def __getitem__(self, index: int) -> UnlabeledImage:
        """Load one image.

        Raises:
            IndexError: If there is no such index.
            UnusableItemError: If the file has vanished or broken since the directory was scanned.
        """
        key = self.keys[index]
        try:
            return UnlabeledImage(key=key, image=self._load(key))
        except DecodeError as error:
            reason = f"root: {self.root / key} was a good image when the directory was scanned and is not now: {error}"
            raise UnusableItemError(key, reason) from error

    def encoded(self, key: str) -> bytes:
        """The bytes of an image's file; an OSError if it has vanished."""
        return (self.root / key).read_bytes()

    def _find_error(self, key: str) -> str | None:
        try:
            self._load(key)
        except DecodeError as error:
            return str(error)
        return None

    def _load(self, key: str) -> Image.Image:
        with decode_errors():
            key.encode()  # a name that is not UTF-8 could be neither hashed nor stored
        return load_image(self.root / key, self.limits)


def record_good(root: Path, keys: Iterable[str], limits: ImageLimits = ImageLimits()) -> None:  # noqa: B008 (frozen)
    """Have images on record as good that were made just now, so that an ``ImageFolder`` does not decode them.

    Args:
        root: Their directory.
        keys: Their paths relative to it.
        limits: What they are known to keep to.
    """
    good = {key: _look(root / key) for key in keys}
    write_index((read_index(*_index(root, limits)) or {}) | good, *_index(root, limits))


def _index(root: Path, limits: ImageLimits) -> tuple[str, str, ImageLimits]:
    """Under what the good images of a directory are on record."""
    return "image folders", str(root.resolve()), limits


def _look(path: Path) -> list[int] | None:
    """Size of a file, and when it was changed last, in nanoseconds; None if it cannot be looked at."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_ctime_ns]  # which a copy or another right changes, too


def _advise(left_out: LeftOut) -> str:
    """What is needed to read the images among what is left out."""
    needed = [suffix for suffix in (".avif", ".heic", ".heif", ".hif") if suffix in left_out.suffixes]
    packages = "pillow 11.3 or pillow-heif" if ".avif" in needed else "pillow-heif"
    advice = [f"{' and '.join(needed)} can be read where {packages} is installed"] if needed else []
    if ".tar" in left_out.suffixes:
        advice.append(".tar files are read with streaming: true")
    return "".join(f"; {text}" for text in advice)


def _list_images(root: Path, left_out: LeftOut) -> tuple[list[str], dict[str, str]]:
    """Sorted keys of the files with a known extension, and the directories that could not be read with the reason."""
    keys: list[str] = []
    unreadable: dict[str, str] = {}

    def note(error: OSError) -> None:
        unreadable[os.path.relpath(error.filename, root)] = describe_error(error)

    for directory, names in _walk(root, note, left_out):
        found = [name for name in names if os.path.splitext(name)[1].lower() in EXTENSIONS]
        left_out.count({*names}.difference(found))
        keys += [(directory / name).relative_to(root).as_posix() for name in found]
    return sorted(keys), unreadable


def _walk(root: Path, on_error: Callable[[OSError], None], left_out: LeftOut) -> Iterator[tuple[Path, list[str]]]:
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
            inside = os.path.relpath(directory, root) if Path(directory) != root else ""
            subdirectories[:] = left_out.choose(sorted(subdirectories), inside)
            for link in (Path(directory, name) for name in subdirectories):
                if link.is_symlink() and not link.parent.resolve().is_relative_to(link.resolve()):
                    pending.append(link)
            yield Path(directory), left_out.choose(names, inside)
