"""Forty image files, good and bad, each with the fate that the data layer must give it.

``build_zoo(directory)`` writes them all below ``directory / "zoo"``; code makes each, so that nothing binary is
committed.
"""

from __future__ import annotations

import os
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.ExifTags import Base as ExifTag

SIZE = (64, 48)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Specimen:
    """A file of the zoo and its fate.

    Args:
        key: Path below the zoo.
        make: Writes it.
        size: Width and height in pixels of the upright RGB image, if it must be loaded.
        reason: Regular expression for the reason, if it must be skipped. With neither it is passed over.
        in_table: Whether its bytes, in a table, have the same fate; not where the fault is not in the bytes.
    """

    key: str
    make: Callable[[Path], object]
    size: tuple[int, int] | None = None
    reason: str | None = None
    in_table: bool = True

    @property
    def name(self) -> str:
        """The key as a skipped image shows it: what is not UTF-8 as escapes."""
        return os.fsencode(self.key).decode(errors="backslashreplace")


def noise(size: tuple[int, int] = SIZE) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_header(width: int, height: int, colour: int = 2) -> bytes:
    return PNG_SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))


def zeros(mebibytes: int) -> bytes:
    """A zlib stream of that many MiB of zeros, about a thousandth of their size, put together without compressing."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return b"\x78\x9c" + block * mebibytes + zlib.compressobj(9, zlib.DEFLATED, -15).flush()


def write(data: bytes | Callable[[], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data if isinstance(data, bytes) else data())


def save(kind: str, image: Image.Image | None = None, **options) -> Callable[[Path], object]:
    return write(lambda: encode(noise() if image is None else image, kind, **options))


def cut(kind: str, **options) -> Callable[[Path], object]:
    """The first half of a good file."""

    def halve() -> bytes:
        data = encode(noise(), kind, **options)
        return data[: len(data) // 2]

    return write(halve)


def grey(width: int, height: int) -> Callable[[Path], object]:
    return save("PNG", Image.new("L", (width, height), 90), compress_level=1)


def flip_header_checksum() -> bytes:
    data = bytearray(encode(noise(), "PNG"))
    data[len(PNG_SIGNATURE) + 8 + 13] ^= 1
    return bytes(data)


def text_bomb() -> bytes:
    good = encode(noise(), "PNG")
    end = len(png_header(1, 1))
    return good[:end] + chunk(b"zTXt", b"Comment\0\0" + zeros(512)) + good[end:]


def transparent_palette() -> Image.Image:
    image = Image.new("P", SIZE, 1)
    image.putpalette([0, 0, 255, 255, 0, 0])
    image.paste(0, (0, 0, 32, 48))
    return image


def animate(path: Path) -> None:
    noise().save(path, "GIF", save_all=True, append_images=[Image.new("RGB", SIZE, "blue")])


def turn(path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTag.Orientation] = 6
    noise().save(path, "JPEG", exif=exif)


def link(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


def link_directory(path: Path) -> None:
    outside = path.parent.parent.with_name("outside")
    outside.mkdir()
    noise().save(outside / path.name)
    path.parent.symlink_to(outside)


def lock(path: Path) -> None:
    noise().save(path)
    path.chmod(0)


_UNKNOWN = "^UnidentifiedImageError: cannot identify the image; its first bytes are "
_GREY_16 = Image.fromarray(np.full((48, 64), 300, dtype=np.uint16))
_ROOT = os.geteuid() == 0
_LINUX = sys.platform == "linux"
_CAFE = "caf\udce9.png" if _LINUX else "cafe.png"  # elsewhere no such name can be made

ZOO = (
    # Sound images of every kind.
    Specimen("plain.png", save("PNG"), SIZE),
    Specimen("UPPER.JPG", save("JPEG"), SIZE),
    Specimen("cmyk.jpg", save("JPEG", Image.new("CMYK", SIZE)), SIZE),
    Specimen("grey-16-bit.png", save("PNG", _GREY_16), SIZE),
    Specimen("palette.png", save("PNG", transparent_palette(), transparency=bytes([0, 255])), SIZE),
    Specimen("grey-alpha.png", save("PNG", Image.new("LA", SIZE)), SIZE),
    Specimen("animated.gif", animate, SIZE),
    Specimen("turned.jpg", turn, (48, 64)),
    Specimen("scan.tif", save("TIFF"), SIZE),
    Specimen("bitmap.bmp", save("BMP"), SIZE),
    Specimen("png-inside.jpg", save("PNG"), SIZE),
    Specimen("largest.png", grey(8192, 8191), (8192, 8191)),
    # Names.
    Specimen("\u00e9.png", save("PNG"), SIZE),
    Specimen("e\u0301.png", save("PNG"), SIZE),
    Specimen("漢字.png", save("PNG"), SIZE),
    Specimen("a 🎈 .png", save("PNG"), SIZE),
    Specimen("-dash.png", save("PNG"), SIZE),
    Specimen("new\nline.png", save("PNG"), SIZE),
    Specimen(_CAFE, save("PNG"), None if _LINUX else SIZE, "^UnicodeEncodeError: " if _LINUX else None, in_table=False),
    # Links and what is no regular file.
    Specimen("link.png", link("plain.png"), SIZE),
    Specimen("linked/inside.png", link_directory, SIZE),
    Specimen("gone.png", link("nowhere.png"), reason="^FileNotFoundError: ", in_table=False),
    Specimen("round.png", link("round.png"), reason="^OSError: .*symbolic links", in_table=False),
    Specimen("pipe.png", os.mkfifo, reason="^ValueError: not a regular file$", in_table=False),
    Specimen("locked.png", lock, SIZE if _ROOT else None, None if _ROOT else "^PermissionError: ", in_table=False),
    Specimen("unknown.xyz", save("PNG"), in_table=False),
    # Sizes, all but the first by honest files.
    Specimen(
        "bomb.png",
        write(png_header(60_000, 60_000) + chunk(b"IDAT", zeros(1)) + chunk(b"IEND", b"")),
        reason=r"^DecompressionBombError: Image size \(3600000000 pixels\)",
    ),
    Specimen("too-large.png", grey(8192, 8193), reason="^ValueError: 8192x8193 pixels; max_pixels is 67108864$"),
    Specimen("1x1.png", grey(1, 1), reason="^ValueError: 1x1 pixels; min_side_pixels is 8$"),
    Specimen("8x1.png", grey(8, 1), reason="^ValueError: 8x1 pixels; min_side_pixels is 8$"),
    Specimen("long.png", grey(5000, 10), reason="^ValueError: 5000x10 pixels; max_aspect_ratio is 200.0$"),
    # Damage, and files that are something else.
    Specimen("cut.jpg", cut("JPEG"), reason="^OSError: image file is truncated"),
    Specimen("cut.png", cut("PNG"), reason="^(OSError|SyntaxError): .*(truncated|broken PNG)"),
    Specimen("cut.webp", cut("WEBP", lossless=True), reason=f"^OSError: |{_UNKNOWN}"),
    Specimen("cut.gif", cut("GIF"), reason="^OSError: image file is truncated"),
    Specimen("empty.png", write(b""), reason=_UNKNOWN + "b''$"),
    Specimen("text.jpg", write(b"a text, not an image"), reason=_UNKNOWN + "b'a text, not an i'$"),
    Specimen("page.png", write(b"<!DOCTYPE html><title>404</title>"), reason=_UNKNOWN + "b'<!DOCTYPE html><'$"),
    Specimen("bad-checksum.png", write(flip_header_checksum), reason=_UNKNOWN),
    Specimen("text-bomb.png", write(text_bomb), reason="^ValueError: Decompressed data too large"),
)


def build_zoo(directory: Path) -> Path:
    """Write the forty files below ``directory / "zoo"`` and return that."""
    zoo = directory / "zoo"
    zoo.mkdir()
    for specimen in ZOO:
        specimen.make(zoo / specimen.key)
    return zoo
