"""Unlabeled images of shards that no disk has room for: read in an order of their own, ahead of their use."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from torch.utils.data import Dataset

from visplay.data.images.decoding import DecodeError, ImageLimits, decode_errors
from visplay.data.images.image_columns import read_image, split_images
from visplay.data.images.image_folder import UnusableItemError
from visplay.data.sources import SHARDS, Origin, allowed, find_origin, list_hub_files
from visplay.data.streams.retrying import call_again, call_within
from visplay.data.streams.shard_files import ParquetShard, Part, Shard, TarShard
from visplay.functional.phases import buffered_indices
from visplay.types import UnlabeledImage

logger = logging.getLogger(__name__)

_SHOWN_REASONS = 5
_KINDS: dict[str, type[Shard]] = {"parquet": ParquetShard, "tar": TarShard}


@dataclass(frozen=True)
class Streaming:
    """How shards are read.

    Args:
        shuffle_buffer: Images that are shuffled among each other, from parts of shards in random order. Twice as many
            are in memory, encoded.
        prefetch: Images decoded ahead of those that are asked for.
        workers: Threads that read and decode. The images and their order do not depend on it.
        retries: Further times that a part which cannot be read is tried, before its images are skipped. Of a shard of
            which a part was given up the other parts are tried once.
        pause_seconds: Before the first retry; doubles with each.
        timeout_seconds: A part that takes longer cannot be read.

    Raises:
        ValueError: One of them is too small.
    """

    shuffle_buffer: int = 1000
    prefetch: int = 64
    workers: int = 4
    retries: int = 4
    pause_seconds: float = 1.0
    timeout_seconds: float = 60.0

    def __post_init__(self) -> None:
        """Reject what is too small."""
        for name, least in {"shuffle_buffer": 1, "prefetch": 0, "workers": 1, "retries": 0, "pause_seconds": 0}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}: must be at least {least}, got {getattr(self, name)}")
        if self.timeout_seconds <= 0:
            raise ValueError(f"timeout_seconds: must be above 0, got {self.timeout_seconds}")


class ImageStream(Dataset[UnlabeledImage]):
    """Unlabeled images of parquet files or WebDataset tars, of which no more than a few parts are in memory.

    Shards of the Hub are read where they are. A key is ``shard:row`` or ``shard:member``, with the path of the shard
    below the source. A row without an image, or with several, is unusable. A shard that cannot be opened is left out;
    of one that is damaged further on, the images of the damaged parts are unusable.

    ``schedule`` gives an order in which the parts are read one after another; it is a function of seed and position
    as long as the shards are the same. One thread asks; those of the pool answer.

    Args:
        source: A .parquet or .tar file, a pattern of such files, a directory of them, or a name on the Hub; see
            ``open_table``, with ``split`` and ``revision``.
        split: Name of a split.
        revision: Branch, tag or commit on the Hub.
        column: Column of the images in a parquet file; None for the first of images, image, img, picture, pictures.
        limits: What an image must keep to, judged by its header before it is decoded.
        streaming: How they are read.

    Attributes:
        skipped: Shards that are left out, reason by name.

    Raises:
        OSError: If there is no such source.
        ValueError: If the source is something else, or holds no image that can be reached.
    """

    def __init__(
        self,
        source: str | Path,
        split: str | None = "train",
        revision: str | None = None,
        column: str | None = None,
        limits: ImageLimits = ImageLimits(),  # noqa: B008 (frozen)
        streaming: Streaming = Streaming(),  # noqa: B008 (frozen)
    ) -> None:
        self.limits = limits
        self.streaming = streaming
        self._directory, self._shards = _find_shards(source, split, revision, column)
        self.skipped: dict[str, str] = {}
        self._pool = ThreadPoolExecutor(streaming.workers, thread_name_prefix="stream")
        found = list(self._pool.map(self._find_parts, self._shards))
        numbered = [
            (number, *part) for number, parts in enumerate(found) if not isinstance(parts, str) for part in parts
        ]
        self._parts = np.array(numbered, dtype=np.int64).reshape(-1, 4)
        self.skipped |= {s.name: p for s, p in zip(self._shards, found, strict=True) if isinstance(p, str)}
        self._sizes = self._parts[:, 3]
        self._ends = np.cumsum(self._sizes)
        self._largest = int(self._sizes.max(initial=0))
        self._given_up: set[int] = set()
        self._read: OrderedDict[int, Future[Sequence[tuple[str, Any]] | str]] = OrderedDict()
        self._ahead: dict[int, Future[UnlabeledImage]] = {}
        some = "; ".join(f"{name}: {reason}" for name, reason in list(self.skipped.items())[:_SHOWN_REASONS])
        if not len(self):
            raise ValueError(f"source: {str(source)!r} must hold at least one image, got none{some and f'; {some}'}")
        left_out = f", left out {len(self.skipped)}: {some}" if self.skipped else ""
        level = logging.WARNING if self.skipped else logging.INFO
        logger.log(level, "%s: %d images in %d shards%s", source, len(self), len(self._shards), left_out)

    def __len__(self) -> int:
        """Number of images, good or bad."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> UnlabeledImage:
        """One image, decoded already if it was scheduled; an ``UnusableItemError`` if it cannot be used."""
        index = range(len(self))[index]
        return (self._ahead.pop(index, None) or self._submit(index)).result()

    def schedule(self, start: int, count: int, seed: int) -> list[int]:
        """Indices of the images that follow a position in the order; they, and some after them, are read from now on.

        Args:
            start: The position.
            count: How many.
            seed: Of the order.
        """
        upcoming = buffered_indices(
            start, count + self.streaming.prefetch, self._sizes, self.streaming.shuffle_buffer, seed
        )
        kept = {index: self._ahead.pop(index) for index in upcoming if index in self._ahead}
        for dropped in self._ahead.values():
            dropped.cancel()
        self._ahead = {index: kept.get(index) or self._submit(index) for index in upcoming}
        return upcoming[:count]

    def _submit(self, index: int) -> Future[UnlabeledImage]:
        """Have an image decoded, behind the part that it is in: workers take what they are given in its order."""
        part = int(np.searchsorted(self._ends, index, "right"))
        if part not in self._read:
            self._read[part] = self._pool.submit(self._read_part, part)
            while sum(self._sizes[other] for other in self._read) > 2 * (self.streaming.shuffle_buffer + self._largest):
                self._read.popitem(last=False)
        self._read.move_to_end(part)
        place = index - int(self._ends[part] - self._sizes[part])
        return self._pool.submit(self._decode, part, place, self._read[part])

    def _find_parts(self, shard: Shard) -> list[Part] | str:
        """The parts of a shard, or why there are none."""
        try:
            with decode_errors():
                return call_again(shard.parts, self.streaming.retries, self.streaming.pause_seconds)
        except DecodeError as error:
            return str(error)

    def _read_part(self, part: int) -> Sequence[tuple[str, Any]] | str:
        """The encoded images of a part, or why there are none."""
        number, *facts = map(int, self._parts[part])
        read = partial(call_within, partial(self._shards[number].read, Part(*facts)), self.streaming.timeout_seconds)
        try:
            with decode_errors():
                retries = 0 if number in self._given_up else self.streaming.retries
                return call_again(read, retries, self.streaming.pause_seconds)
        except DecodeError as error:
            self._given_up.add(number)
            return str(error)

    def _decode(self, part: int, place: int, reading: Future[Sequence[tuple[str, Any]] | str]) -> UnlabeledImage:
        shard, begin, _, count = self._parts[part]
        items, name = reading.result(), self._shards[shard].name
        if isinstance(items, str):
            raise UnusableItemError(f"{name} (part at {begin}, {count} images)", items)
        key = f"{name}:{items[place][0]}"
        try:
            images = split_images(items[place][1])
            if len(images) != 1:
                raise ValueError(f"{len(images)} images; an item of a stream must have one")
            from_hub = self._directory is None
            return UnlabeledImage(key, read_image(images[0], self._directory, self.limits, from_hub=from_hub))
        except ValueError as error:
            raise UnusableItemError(key, str(error)) from error


def _find_shards(
    source: str | Path, split: str | None, revision: str | None, column: str | None
) -> tuple[Path | None, list[Shard]]:
    """Where relative paths in the shards start, None for the Hub; and the shards."""
    origin = find_origin(source, split, SHARDS)
    if origin.kind == "hub":
        return None, _find_on_hub(origin, revision, column)
    files = sorted(origin.files[str(origin.split)])
    kind, local = _KINDS[origin.kind], LocalFileSystem()
    directory = origin.directory or Path()
    names = [Path(os.path.relpath(file, directory)).as_posix() for file in files]
    return directory, [kind(name, file, local, column) for name, file in zip(names, files, strict=True)]


def _find_on_hub(origin: Origin, revision: str | None, column: str | None) -> list[Shard]:
    """The shards of a data set of the Hub."""
    urls = list_hub_files(origin, revision)
    kinds = sorted({Path(url).suffix for url in urls})
    if len(kinds) != 1 or kinds[0] not in SHARDS:
        raise ValueError(
            f"source: the split {origin.split!r} of {origin.path!r} is of {kinds} files; {allowed(SHARDS)}"
        )
    found = [url_to_fs(url) for url in urls]
    above = os.path.commonpath([os.path.dirname(path) for _, path in found])
    kind = _KINDS[SHARDS[kinds[0]]]
    return [kind(os.path.relpath(path, above), path, files, column) for files, path in found]
