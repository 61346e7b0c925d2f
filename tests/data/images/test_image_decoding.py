import contextlib
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, features
from PIL.ExifTags import Base as ExifTag

from data.zoo import PNG_SIGNATURE, chunk, png_header
from visplay.data.draws import Draws
from visplay.data.images import decoding
from visplay.data.images.decoding import DecodeError, ImageLimits, decode_image, to_rgb
from visplay.data.images.image_columns import read_images
from visplay.data.images.image_folder import ImageFolder

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def corners(image: Image.Image) -> list:
    """The colours in the four corners: top left, top right, bottom left, bottom right."""
    right, bottom = image.width - 1, image.height - 1
    return [image.getpixel(place) for place in ((0, 0), (right, 0), (0, bottom), (right, bottom))]


def quadrants(width: int = 32, height: int = 16) -> Image.Image:
    """Red, green above blue, white."""
    image = Image.new("RGB", (width, height), WHITE)
    image.paste(RED, (0, 0, width // 2, height // 2))
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    return image


def noise(width: int = 64, height: int = 48) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def only(directory: Path) -> Image.Image:
    images = ImageFolder(directory)
    assert len(images) == 1
    assert images.skipped == ()
    image = images[0].image
    assert image.mode == "RGB"
    assert image.info == {}
    return image


class TestFormats:
    @pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.TIFF", "a.PNG"])
    def test_lossless(self, tmp_path, name):
        noise().save(tmp_path / name)
        np.testing.assert_array_equal(only(tmp_path), noise())

    def test_webp_lossless(self, tmp_path):
        noise().save(tmp_path / "a.webp", lossless=True)
        np.testing.assert_array_equal(only(tmp_path), noise())

    @pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.jfif", "a.webp"])
    def test_lossy(self, tmp_path, name):
        kind = "WEBP" if name.endswith("webp") else "JPEG"
        quadrants().save(tmp_path / name, kind, quality=95)
        np.testing.assert_allclose(corners(only(tmp_path)), [RED, GREEN, BLUE, WHITE], atol=6)

    def test_progressive_jpeg(self, tmp_path):
        quadrants().save(tmp_path / "a.jpg", progressive=True, quality=95)
        np.testing.assert_allclose(corners(only(tmp_path)), [RED, GREEN, BLUE, WHITE], atol=6)

    @pytest.mark.parametrize("name", ["a.ppm", "a.qoi", "a.jp2", "a.j2k", "a.apng", "a.pnm"])
    def test_further_lossless_formats(self, tmp_path, name):
        noise().save(tmp_path / name)
        np.testing.assert_array_equal(only(tmp_path), noise())
        np.testing.assert_array_equal(read_images((tmp_path / name).read_bytes())[0], noise())
        np.testing.assert_array_equal(read_images(b64encode((tmp_path / name).read_bytes()).decode())[0], noise())

    @pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
    @pytest.mark.parametrize("name", ["a.avif", "a.AVIF"])
    def test_avif(self, tmp_path, name):
        quadrants().save(tmp_path / name, "AVIF", quality=95, subsampling="4:4:4")
        np.testing.assert_allclose(corners(only(tmp_path)), [RED, GREEN, BLUE, WHITE], atol=12)
        assert corners(read_images(b64encode((tmp_path / name).read_bytes()).decode())[0]) == corners(only(tmp_path))

    def test_heic_where_its_package_is_installed(self, tmp_path):
        """A stand-in registers a format HEIF as pillow-heif does: a header, then a BMP."""
        (tmp_path / "pillow_heif.py").write_text(
            "from io import BytesIO\n"
            "from PIL import Image\n"
            "def open_heif(file, name):\n"
            "    image = Image.open(BytesIO(file.read()[16:]))\n"
            "    image.load()\n"
            "    return image\n"
            "def register_heif_opener():\n"
            "    Image.register_open('HEIF', open_heif, lambda head: head[4:12] == b'ftypheic')\n"
            "    Image.register_extensions('HEIF', ['.heic', '.heif', '.hif'])\n"
        )
        quadrants().save(tmp_path / "plain.bmp")
        for name in ("a.heic", "b.HEIF"):
            (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0" + (tmp_path / "plain.bmp").read_bytes())
        code = "import sys; from visplay.data import ImageFolder; print(ImageFolder(sys.argv[1]).keys)"
        found = subprocess.run(
            [sys.executable, "-c", code, tmp_path],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout == "('a.heic', 'b.HEIF', 'plain.bmp')\n"

    @pytest.mark.parametrize(
        ("name", "kind"), [("a.gif", "GIF"), ("a.webp", "WEBP"), ("a.png", "PNG"), ("a.tif", "TIFF")]
    )
    def test_first_frame(self, tmp_path, name, kind):
        first, second = Image.new("RGB", (16, 16), RED), Image.new("RGB", (16, 16), BLUE)
        exact = {"lossless": True} if kind == "WEBP" else {}
        first.save(tmp_path / name, kind, save_all=True, append_images=[second], **exact)
        assert corners(only(tmp_path)) == [RED] * 4

    def test_two_image_jpeg(self, tmp_path):
        first, second = Image.new("RGB", (16, 16), RED), Image.new("RGB", (16, 16), BLUE)
        first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
        np.testing.assert_allclose(corners(only(tmp_path)), [RED] * 4, atol=2)

    def test_content_decides_not_the_extension(self, tmp_path):
        noise().save(tmp_path / "a.jpg", "PNG")
        np.testing.assert_array_equal(only(tmp_path), noise())


class TestModes:
    def test_grey(self, tmp_path):
        Image.new("L", (9, 9), 77).save(tmp_path / "a.png")
        assert corners(only(tmp_path)) == [(77, 77, 77)] * 4

    def test_bilevel(self, tmp_path):
        Image.fromarray(np.eye(8, dtype=bool)).save(tmp_path / "a.png")
        np.testing.assert_array_equal(np.asarray(only(tmp_path))[..., 0], np.eye(8) * 255)

    def test_cmyk_jpeg(self, tmp_path):
        Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
        np.testing.assert_allclose(corners(only(tmp_path)), [RED] * 4, atol=6)

    def test_palette(self, tmp_path):
        quadrants().quantize(4).save(tmp_path / "a.png")
        assert corners(only(tmp_path)) == [RED, GREEN, BLUE, WHITE]

    @pytest.mark.parametrize("transparency", [0, bytes([0, 255])])
    @pytest.mark.parametrize("name", ["a.png", "a.gif"])
    def test_palette_with_transparency(self, tmp_path, name, transparency):
        if name == "a.gif" and isinstance(transparency, bytes):
            transparency = 0
        image = Image.new("P", (16, 16), 1)
        image.putpalette([*BLUE, *RED])
        image.paste(0, (0, 0, 8, 16))
        image.save(tmp_path / name, transparency=transparency)
        assert corners(only(tmp_path)) == [WHITE, RED, WHITE, RED]

    def test_alpha_over_white(self, tmp_path):
        image = Image.new("RGBA", (16, 16), (255, 0, 0, 255))
        image.paste((0, 0, 0, 0), (0, 0, 8, 8))
        image.paste((0, 0, 0, 51), (8, 0, 16, 8))
        image.save(tmp_path / "a.png")
        assert corners(only(tmp_path)) == [WHITE, (204, 204, 204), RED, RED]

    def test_grey_alpha_over_white(self, tmp_path):
        image = Image.new("LA", (16, 16), (10, 255))
        image.paste((10, 0), (0, 0, 8, 16))
        image.save(tmp_path / "a.png")
        assert corners(only(tmp_path)) == [WHITE, (10, 10, 10)] * 2

    def test_transparent_colour_of_rgb(self, tmp_path):
        quadrants().save(tmp_path / "a.png", transparency=GREEN)
        assert corners(only(tmp_path)) == [RED, WHITE, BLUE, WHITE]

    @pytest.mark.parametrize("name", ["a.png", "a.tif"])
    def test_16_bit_is_scaled(self, tmp_path, name):
        values = np.repeat(np.array([[0, 257, 128, 129, 32896, 65406, 65407, 65535]], dtype=np.uint16), 8, axis=0)
        Image.fromarray(values).save(tmp_path / name)
        np.testing.assert_array_equal(np.asarray(only(tmp_path))[0, :, 1], [0, 1, 0, 1, 128, 254, 255, 255])

    def test_16_bit_with_a_transparent_grey(self, tmp_path):
        values = np.full((8, 8), 257, dtype=np.uint16)
        values[:, :4] = 514
        Image.fromarray(values).save(tmp_path / "a.png", transparency=514)
        assert corners(only(tmp_path)) == [WHITE, (1, 1, 1)] * 2

    def test_big_endian_16_bit(self):
        values = np.array([[0, 65535]], dtype=">u2")
        image = Image.frombytes("I;16B", (2, 1), values.tobytes())
        assert list(np.asarray(to_rgb(image))[0, :, 0]) == [0, 255]

    @pytest.mark.parametrize("dtype", [np.int32, np.float32])
    def test_unbounded_grey_is_stretched(self, tmp_path, dtype):
        values = np.tile(np.array([-100, 0, 155, 410], dtype=dtype), (8, 2))
        Image.fromarray(values).save(tmp_path / "a.tif")
        np.testing.assert_array_equal(np.asarray(only(tmp_path))[0, :4, 2], [0, 50, 128, 255])

    def test_flat_and_undefined_floats(self):
        assert to_rgb(Image.new("F", (2, 2), 0.3)).getpixel((0, 0)) == (0, 0, 0)
        image = Image.fromarray(np.array([[np.nan, np.inf, 1.0]], dtype=np.float32))
        assert list(np.asarray(to_rgb(image))[0, :, 0]) == [0, 0, 255]

    def test_to_rgb_leaves_its_argument(self):
        image = Image.new("RGB", (4, 4), RED)
        image.info["transparency"] = RED
        assert to_rgb(image).getpixel((0, 0)) == WHITE
        assert image.getpixel((0, 0)) == RED
        assert image.info == {"transparency": RED}

    def test_other_colour_spaces(self, tmp_path):
        Image.new("YCbCr", (16, 16), (255, 128, 128)).save(tmp_path / "a.tif")
        assert corners(only(tmp_path)) == [WHITE] * 4

    def test_no_way_to_rgb(self):
        with pytest.raises(ValueError, match="La"):
            to_rgb(Image.new("La", (4, 4)))


class TestOrientation:
    EXPECTED = {
        1: [RED, GREEN, BLUE, WHITE],
        2: [GREEN, RED, WHITE, BLUE],
        3: [WHITE, BLUE, GREEN, RED],
        4: [BLUE, WHITE, RED, GREEN],
        5: [RED, BLUE, GREEN, WHITE],
        6: [BLUE, RED, WHITE, GREEN],
        7: [WHITE, GREEN, BLUE, RED],
        8: [GREEN, WHITE, RED, BLUE],
    }

    @pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "a.jpg"])
    @pytest.mark.parametrize("tag", EXPECTED)
    def test_applied(self, tmp_path, name, tag):
        exif = Image.Exif()
        exif[ExifTag.Orientation] = tag
        exact = {"lossless": True} if name == "a.webp" else {"quality": 95} if name == "a.jpg" else {}
        quadrants().save(tmp_path / name, exif=exif, **exact)
        image = only(tmp_path)
        assert image.size == ((32, 16) if tag < 5 else (16, 32))
        np.testing.assert_allclose(corners(image), self.EXPECTED[tag], atol=6 if name == "a.jpg" else 0)

    @pytest.mark.parametrize("tag", [0, 9, 65535])
    def test_unknown_value_is_ignored(self, tmp_path, tag):
        exif = Image.Exif()
        exif[ExifTag.Orientation] = tag
        quadrants().save(tmp_path / "a.png", exif=exif)
        assert corners(only(tmp_path)) == [RED, GREEN, BLUE, WHITE]

    def test_broken_metadata_does_not_cost_the_image(self, tmp_path):
        quadrants().save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01")
        assert corners(only(tmp_path)) == [RED, GREEN, BLUE, WHITE]


def tiled_tiff(side: int) -> bytes:
    """A grey TIFF of 16x16 pixels in one deflated tile of this side."""
    data = zlib.compress(bytes(side * side))
    tags = [(256, 16), (257, 16), (258, 8), (259, 8), (262, 1), (277, 1), (322, side), (323, side)]
    tags += [(324, 8 + 2 + 12 * 10 + 4), (325, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


class TestTiles:
    """A tile is decoded whole, however small the image is."""

    def test_within_the_limits(self):
        assert decode_image(tiled_tiff(64), ImageLimits(max_pixels=64 * 64)).size == (16, 16)

    def test_above_the_limits(self):
        with pytest.raises(ValueError, match="tiles of 80x80 pixels; max_pixels is 4096"):
            decode_image(tiled_tiff(80), ImageLimits(max_pixels=64 * 64))


class TestWarnings:
    @pytest.fixture
    def noisy(self, monkeypatch):
        """Make every decoding warn."""

        def load(image):
            warnings.warn("odd metadata", stacklevel=1)
            return original(image)

        original = ImageFile.ImageFile.load
        monkeypatch.setattr(ImageFile.ImageFile, "load", load)

    def test_do_not_cost_the_image(self, tmp_path, noisy):
        noise().save(tmp_path / "a.bmp")
        assert decode_image((tmp_path / "a.bmp").read_bytes()).size == (64, 48)

    def test_are_errors_elsewhere_while_a_thread_decodes(self, tmp_path, noisy, monkeypatch):
        begun, ended = threading.Event(), threading.Event()

        def convert(image):
            begun.set()
            assert ended.wait(20)
            warnings.warn("odd colours", stacklevel=1)
            return original(image)

        original = decoding.to_rgb
        monkeypatch.setattr(decoding, "to_rgb", convert)
        noise().save(tmp_path / "a.bmp")
        with ThreadPoolExecutor(1) as pool:
            decoded = pool.submit(decode_image, (tmp_path / "a.bmp").read_bytes())
            assert begun.wait(20)
            with warnings.catch_warnings(), pytest.raises(UserWarning, match="still an error"):
                warnings.warn("still an error", stacklevel=1)
            ended.set()
            assert decoded.result().size == (64, 48)
        with pytest.raises(UserWarning, match="and now"):
            warnings.warn("and now", stacklevel=1)


class TestLargeImages:
    """They are decoded one at a time, small ones side by side."""

    @pytest.mark.parametrize(("area", "together"), [(64 * 48 - 1, 1), (64 * 48, 2)])
    def test_at_the_same_time(self, tmp_path, monkeypatch, area, together):
        inside, most = [], []
        two = threading.Barrier(2)

        def convert(image):
            inside.append(id(image))
            with contextlib.suppress(threading.BrokenBarrierError):
                two.wait(timeout=0.2 if together == 1 else 20)
            most.append(len(inside))
            inside.remove(id(image))
            return original(image)

        original = decoding.to_rgb
        monkeypatch.setattr(decoding, "to_rgb", convert)
        monkeypatch.setattr(decoding, "_LARGE_PIXELS", area)
        noise().save(tmp_path / "a.png")
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(decode_image, [(tmp_path / "a.png").read_bytes()] * 2))
        assert max(most) == together


class TestInMemory:
    def test_bytes(self, tmp_path):
        noise().save(tmp_path / "a.png")
        np.testing.assert_array_equal(decode_image((tmp_path / "a.png").read_bytes()), noise())
        with pytest.raises(DecodeError, match="^UnidentifiedImageError: cannot identify"):
            decode_image(b"text")


class TestKeysOf16Bits:
    """A PNG of 16 bits a channel names the colour that is transparent in 16 bits as well."""

    @staticmethod
    def png(key: tuple[int, int, int] | None, pixels: list[tuple[int, int, int]]) -> bytes:
        header = struct.pack(">IIBBBBB", len(pixels), 8, 16, 2, 0, 0, 0)
        row = b"\0" + b"".join(struct.pack(">HHH", *pixel) for pixel in pixels)
        transparent = b"" if key is None else chunk(b"tRNS", struct.pack(">HHH", *key))
        body = transparent + chunk(b"IDAT", zlib.compress(row * 8)) + chunk(b"IEND", b"")
        return PNG_SIGNATURE + chunk(b"IHDR", header) + body

    @pytest.mark.parametrize("key", [(0x1234, 0x5678, 0x9ABC), (0, 0, 200), (0xFFFF, 0, 0), (255, 255, 255)])
    def test_the_key_becomes_white_and_nothing_else(self, key):
        red, green, blue = key
        others = [(red ^ 1, green, blue), (red, green ^ 2, blue), (red, green, blue ^ 0x100), (0x8000, 0x8000, 0x8000)]
        image = decode_image(self.png(key, [key, *others] + [key] * 4))
        found = [image.getpixel((x, 3)) for x in range(9)]
        assert found[0] == found[5] == found[8] == WHITE
        assert found[1:5] == [tuple(value >> 8 for value in pixel) for pixel in others]

    def test_without_a_key(self):
        image = decode_image(self.png(None, [(0x1234, 0x5678, 0x9ABC)] * 8))
        assert corners(image) == [(0x12, 0x56, 0x9A)] * 4


class OwnError(Exception):
    """What nobody has listed."""


class TestWhateverADecoderRaises:
    RAISED = (AssertionError(), OwnError("own"), StopIteration(), struct.error("short"), zlib.error("bits"))

    @pytest.fixture(params=RAISED, ids=lambda error: type(error).__name__)
    def raised(self, request, tmp_path, monkeypatch):
        """One of two files makes its decoder raise."""

        def load(image):
            if image.size == (32, 16):
                raise request.param
            return original(image)

        original = ImageFile.ImageFile.load
        quadrants().save(tmp_path / "bad.bmp")
        noise().save(tmp_path / "good.bmp")
        monkeypatch.setattr(ImageFile.ImageFile, "load", load)
        return type(request.param).__name__

    def test_costs_the_file(self, tmp_path, raised):
        images = ImageFolder(tmp_path)
        assert images.keys == ("good.bmp",)
        (bad,) = images.skipped
        assert (bad.path, bad.reason.partition(":")[0]) == ("bad.bmp", raised)

    def test_costs_the_cell(self, tmp_path, raised):
        with pytest.raises(ValueError, match=f"^1590 bytes: {raised}"):
            read_images((tmp_path / "bad.bmp").read_bytes())

    def test_costs_what_is_drawn_in_a_phase(self, tmp_path, raised):
        quadrants(48, 48).save(tmp_path / "bad.bmp")
        images = ImageFolder(tmp_path)
        quadrants().save(tmp_path / "bad.bmp")  # it breaks after it was looked at
        draws = Draws(images, seed=0)
        assert [image.key for image in draws.draw(4)] == ["good.bmp"] * 4
        assert list(draws.skipped) == ["bad.bmp"]
        assert f"is not now: {raised}" in draws.skipped["bad.bmp"]

    @pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
    def test_but_what_is_not_the_fault_of_the_file(self, tmp_path, monkeypatch, error):
        def load(image):
            raise error

        quadrants().save(tmp_path / "a.bmp")
        monkeypatch.setattr(ImageFile.ImageFile, "load", load)
        with pytest.raises(error):
            ImageFolder(tmp_path)

    def test_a_palette_image_without_its_palette(self, tmp_path):
        noise().save(tmp_path / "good.png")
        data = chunk(b"IDAT", zlib.compress(bytes(17 * 16))) + chunk(b"IEND", b"")
        (tmp_path / "bad.png").write_bytes(png_header(16, 16, colour=3) + data)
        images = ImageFolder(tmp_path)
        assert images.keys == ("good.png",)
        assert [bad.path for bad in images.skipped] == ["bad.png"]
