"""Small copies of the images that a run has looked at, in one file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image

from visplay.data.images.image_facts import hash_pixels

THUMBNAIL_PIXELS = 192
"""Most pixels of the longest side of a thumbnail."""
_TABLES = (
    "CREATE TABLE IF NOT EXISTS thumbnails (hash TEXT PRIMARY KEY, webp BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS images (key TEXT PRIMARY KEY, hash TEXT NOT NULL, width INTEGER, height INTEGER)",
)


class Thumbnails:
    """Thumbnails by the hash of their image's pixels, and these hashes by the images' keys, in one SQLite file.

    An image is encoded once, however often and under how many keys it comes. One process writes, any number read.

    Args:
        path: The file; made with the first image.
        most_bytes: Of the thumbnails in all; further images have a hash and no thumbnail.
    """

    def __init__(self, path: Path, most_bytes: int = 2**62) -> None:
        self.path = path
        self.most_bytes = most_bytes
        self._hashes: dict[str, str] = {}
        self._bytes: int | None = None

    def add(self, images: Mapping[str, Image.Image]) -> dict[str, str]:
        """Keep images by their keys; their hashes by key.

        A key stands for one image: what is known of it is not looked at again.
        """
        new = {key: image for key, image in images.items() if key not in self._hashes}
        if new:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._open() as database:
                for key, image in new.items():
                    self._hashes[key] = self._add(database, key, image)
        return {key: self._hashes[key] for key in images}

    def hashes(self) -> dict[str, str]:
        """The hash of every image, by its key."""
        with self._open() as database:
            return dict(database.execute("SELECT key, hash FROM images"))

    def read(self, hashes: Iterable[str]) -> dict[str, bytes]:
        """The thumbnails that there are of some hashes, as WebP."""
        with self._open() as database:
            found = {}
            for name in hashes:
                if row := database.execute("SELECT webp FROM thumbnails WHERE hash = ?", (name,)).fetchone():
                    found[name] = row[0]
            return found

    def _add(self, database: sqlite3.Connection, key: str, image: Image.Image) -> str:
        name = hash_pixels(image)
        row = (key, name, *image.size)
        database.execute("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?)", row)
        if self._bytes is None:
            (self._bytes,) = database.execute("SELECT COALESCE(SUM(LENGTH(webp)), 0) FROM thumbnails").fetchone()
        if database.execute("SELECT 1 FROM thumbnails WHERE hash = ?", (name,)).fetchone() is None:
            webp = encode_thumbnail(image)
            if self._bytes + len(webp) <= self.most_bytes:
                database.execute("INSERT INTO thumbnails VALUES (?, ?)", (name, webp))
                self._bytes += len(webp)
        return name

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The file with its tables, if it can be there; nothing is half written."""
        missing = not self.path.parent.is_dir()
        with closing(sqlite3.connect(":memory:" if missing else self.path, timeout=60)) as database:
            database.execute("PRAGMA synchronous = OFF")  # a loss of power may cost thumbnails, and nothing else
            for table in _TABLES:
                database.execute(table)
            with database:
                yield database


def encode_thumbnail(image: Image.Image) -> bytes:
    """A copy of an image as WebP, small, or twice as large where the image is very small."""
    small = image.convert("RGB")
    if 2 * max(small.size) <= THUMBNAIL_PIXELS:  # as WebP has colours at half the resolution
        small = small.resize((2 * small.width, 2 * small.height), Image.Resampling.NEAREST)
    small.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), reducing_gap=2.0)
    file = BytesIO()
    small.save(file, "WEBP", quality=75, method=0)
    return file.getvalue()
