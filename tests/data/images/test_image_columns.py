import base64
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from visplay.data.images.decoding import ImageLimits
from visplay.data.images.image_columns import count_images, count_per_row, find_column, read_images

FORMATS = ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"]


def encode(number: int = 1, kind: str = "PNG", size: tuple[int, int] = (12, 10)) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", size, (number, 20, 30)).save(buffer, kind)
    return buffer.getvalue()


def number(image: Image.Image) -> int:
    assert image.mode == "RGB"
    return image.getpixel((0, 0))[0]


def numbers(value, directory=None) -> list[int]:
    assert count_images(value) == len(read_images(value, directory))
    return [number(image) for image in read_images(value, directory)]


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(encode(7))
    return tmp_path


class TestShapes:
    @pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview], ids=lambda kind: kind.__name__)
    def test_bytes(self, wrap):
        assert numbers(wrap(encode(5))) == [5]

    @pytest.mark.parametrize("path", [None, "somewhere/else.png"])
    def test_struct_with_bytes(self, path):
        assert numbers({"bytes": encode(5), "path": path}) == [5]

    def test_struct_with_a_path(self, directory):
        assert numbers({"bytes": None, "path": "images/a.png"}, directory) == [7]
        assert numbers({"bytes": None, "path": str(directory / "images" / "a.png")}) == [7]
        assert numbers({"path": "images/a.png"}, directory) == [7]
        assert numbers({"bytes": encode(5)}) == [5]

    def test_path(self, directory):
        assert numbers("images/a.png", directory) == [7]
        assert numbers(str(directory / "images" / "a.png"), "elsewhere") == [7]
        assert numbers(Path("images/a.png"), str(directory)) == [7]

    @pytest.mark.parametrize("kind", FORMATS)
    def test_base64(self, kind):
        value = text(encode(100, kind))
        for shape in (value, f"data:image/{kind.lower()};base64,{value}"):
            (image,) = read_images(shape)
            np.testing.assert_allclose(image.getpixel((5, 5)), (100, 20, 30), atol=6)

    def test_base64_in_lines_and_without_padding(self):
        data = next(encode(n) for n in range(1, 256) if len(encode(n)) % 3)
        lines = base64.encodebytes(data).decode()
        assert lines.count("\n") > 1
        assert numbers(lines) == numbers(text(data)) == numbers(text(data).rstrip("="))
        assert numbers(f"data:image/png;base64,{lines}") == numbers(data)

    def test_image(self):
        assert numbers(Image.new("RGB", (9, 8), (3, 0, 0))) == [3]
        assert numbers(Image.new("L", (9, 8), 200)) == [200]

    def test_lists_of_all(self, directory):
        value = [
            {"bytes": encode(1), "path": None},
            encode(2),
            text(encode(3)),
            "images/a.png",
            Image.new("L", (9, 8), 4),
            None,
        ]
        assert numbers(value, directory) == numbers(tuple(value), directory) == [1, 2, 3, 7, 4]
        assert numbers([value[:2], [], value[2:]], directory) == [1, 2, 3, 7, 4]

    @pytest.mark.parametrize("value", [None, [], (), "", [None], [[]], {"bytes": None, "path": None}, {"path": ""}])
    def test_none_at_all(self, value):
        assert numbers(value) == []


class TestPathOrBase64:
    def test_a_path_whose_letters_are_all_base64(self, tmp_path):
        (tmp_path / "abcd").mkdir()
        (tmp_path / "abcd" / "EFGH").write_bytes(encode(9))
        assert numbers("abcd/EFGH", tmp_path) == [9]

    def test_a_path_that_begins_as_a_base64_jpeg_does(self, tmp_path):
        """An absolute path /9j/ is what a JPEG's first bytes look like; a dot is not base64."""
        with pytest.raises(ValueError, match=r"text '/9j/4AAQSkZJRg.jpg': .*neither base64 .* nor a file"):
            read_images("/9j/4AAQSkZJRg.jpg", tmp_path)

    def test_base64_wins_over_a_file_of_that_name(self, tmp_path):
        value = text(b"GIF89a")
        (tmp_path / value).write_bytes(encode(9))
        with pytest.raises(ValueError, match="text 'R0lGODlh': "):
            read_images(value, tmp_path)

    def test_base64_of_something_else_is_no_path_either(self, tmp_path):
        with pytest.raises(
            ValueError, match=r"text 'aGVsbG8gd29ybGQh': .*neither base64 of an image \(BMP, .*nor a file"
        ):
            read_images(text(b"hello world!"), tmp_path)

    @pytest.mark.parametrize("body", ["@@@@", "A", "é"])
    def test_data_address_that_is_not_base64(self, body):
        with pytest.raises(ValueError, match="text 'data:image/png;base64,"):
            read_images(f"data:image/png;base64,{body}")

    def test_long_text_is_cut_in_messages(self, tmp_path):
        with pytest.raises(ValueError, match=r"^text 'x{60}\.\.\.': .{0,200}File name too long"):
            read_images("x" * 5000, tmp_path)


class TestErrors:
    @pytest.mark.parametrize(
        ("value", "found"),
        [
            (3, "int '3'"),
            (2.5, "float '2.5'"),
            (True, "bool 'True'"),
            ({"url": "x"}, r"a struct of \['url'\]"),
            ([encode(), 3], "int '3'"),
            (np.zeros((2, 2)), "ndarray"),
        ],
        ids=str,
    )
    def test_other_shapes(self, value, found):
        for read in (read_images, count_images):
            with pytest.raises(
                ValueError, match=f"{found}.*; a cell must hold a struct of bytes and path, bytes, base64"
            ):
                read(value)

    def test_no_image_in_the_bytes(self):
        with pytest.raises(ValueError, match=r"^9 bytes: UnidentifiedImageError: .* first bytes are b'<html> 12'$"):
            read_images([encode(), b"<html> 12"])

    def test_missing_file(self, directory):
        with pytest.raises(ValueError, match=r"text 'images/b\.png': .*nor a file: FileNotFoundError"):
            read_images("images/b.png", directory)

    def test_directory_instead_of_a_file(self, directory):
        with pytest.raises(ValueError, match="text 'images': ValueError: not a regular file"):
            read_images("images", directory)

    def test_relative_path_without_a_directory(self, directory, monkeypatch):
        monkeypatch.chdir(directory)
        with pytest.raises(ValueError, match="a relative path, and there is no directory that it starts from"):
            read_images("images/a.png")

    @pytest.mark.parametrize("address", ["https://example.org/a.png", "s3://bucket/a.png", "file:///a.png"])
    def test_nothing_is_fetched(self, address, tmp_path):
        with pytest.raises(ValueError, match="a web address is not fetched"):
            read_images(address, tmp_path)

    def test_null_character_in_a_path(self, tmp_path):
        with pytest.raises(ValueError, match="neither base64"):
            read_images("a\0.png", tmp_path)


class TestLimits:
    @pytest.mark.parametrize(
        "shape", [bytes, text, lambda data: {"bytes": data}, lambda data: Image.open(BytesIO(data))]
    )
    def test_every_shape_is_checked(self, shape):
        value = shape(encode(size=(12, 10)))
        with pytest.raises(ValueError, match="12x10 pixels; max_pixels is 100"):
            read_images(value, limits=ImageLimits(max_pixels=100))
        assert len(read_images(value, limits=None)) == 1

    def test_before_anything_is_decoded(self):
        """The pixels of this image are not even there."""
        header = b"IHDR" + struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
        data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
        with pytest.raises(ValueError, match="9000x9000 pixels; max_pixels is 67108864"):
            read_images(data + struct.pack(">I", 8) + b"IDAT" + bytes(12))


class TestFindColumn:
    def test_the_first_of_the_known_names(self):
        assert find_column(["picture", "image", "id"], None) == "image"
        assert find_column(["picture", "image", "id"], "id") == "id"

    @pytest.mark.parametrize(("wanted", "named"), [(None, "'images' or 'image' or 'img'"), ("photo", "'photo'")])
    def test_none(self, wanted, named):
        with pytest.raises(ValueError, match=rf"{named}.* is none of its columns \['a', 'b'\]"):
            find_column(["a", "b"], wanted)


STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})
FULL, NAMED, EMPTY = {"bytes": b"x", "path": None}, {"bytes": None, "path": "a"}, {"bytes": None, "path": None}


class TestCountPerRow:
    @pytest.mark.parametrize(
        ("cells", "kind"),
        [
            ([b"x", None, b"", b"y"], pa.binary()),
            ([b"x", None, b""], pa.large_binary()),
            (["x", None, "", "y"], pa.string()),
            (["x", None, ""], pa.large_string()),
            ([None, None], pa.null()),
            ([FULL, None, EMPTY, NAMED, {"bytes": None, "path": ""}, {"bytes": b"", "path": ""}], STRUCT),
            ([{"path": "a", "size": 3}, None], pa.struct({"path": pa.string(), "size": pa.int64()})),
            ([[FULL, NAMED], None, [], [EMPTY, None], [FULL, None, NAMED], [FULL]], pa.list_(STRUCT)),
            ([[b"x", b"y"], None, [None]], pa.large_list(pa.binary())),
            ([[b"x", None], [b"x", b"y"], [None, None]], pa.list_(pa.binary(), 2)),
            ([[b"x", None], None, [b"x", b"y"]], pa.list_(pa.binary(), 2)),
            ([[["x"], []], None, [["x", "y"], None, ["z"]]], pa.list_(pa.list_(pa.string()))),
        ],
        ids=lambda value: str(value) if isinstance(value, pa.DataType) else "",
    )
    def test_agrees_with_the_count_of_each_cell(self, cells, kind):
        expected = [count_images(cell) for cell in cells]
        array = pa.array(cells, kind)
        assert count_per_row(pa.chunked_array([array])).tolist() == expected
        for cut in range(1, len(cells)):
            assert count_per_row(pa.chunked_array([array[:cut], array[cut:]])).tolist() == expected

    def test_no_rows(self):
        assert count_per_row(pa.chunked_array([], pa.binary())).tolist() == []

    @pytest.mark.parametrize("kind", [pa.int64(), pa.list_(pa.float32()), pa.struct({"url": pa.string()})], ids=str)
    def test_types_that_hold_no_images(self, kind):
        with pytest.raises(ValueError, match="a column of .* holds no images; a cell must hold a struct"):
            count_per_row(pa.chunked_array([pa.array([None], kind)]))
