from io import BytesIO

from PIL import Image

from visplay.viewing.thumbnails import Thumbnails, encode_thumbnail

RED, BLUE = Image.new("RGB", (400, 100), "red"), Image.new("RGB", (30, 20), "blue")


def test_an_image_is_kept_once_under_all_its_keys(tmp_path):
    kept = Thumbnails(tmp_path / "samples" / "t.sqlite")
    first = kept.add({"a": RED, "b": RED.copy(), "c": BLUE})
    assert first["a"] == first["b"] != first["c"]
    again = Thumbnails(tmp_path / "samples" / "t.sqlite")
    assert again.hashes() == first
    assert again.read([first["a"], first["a"], "unknown"]).keys() == {first["a"]}


def test_a_thumbnail_is_small_and_its_colours_are_the_images():
    assert Image.open(BytesIO(encode_thumbnail(RED))).size == (192, 48)
    assert Image.open(BytesIO(encode_thumbnail(Image.new("RGB", (100, 60))))).size == (100, 60)
    pair = Image.new("RGB", (30, 20), "blue")
    pair.paste("red", (8, 8, 12, 12))
    enlarged = Image.open(BytesIO(encode_thumbnail(pair))).convert("RGB")
    assert enlarged.size == (60, 40)
    red, blue = enlarged.getpixel((20, 20)), enlarged.getpixel((28, 20))
    assert red[0] > 200 > 100 > red[2]
    assert blue[2] > 200 > 100 > blue[0]


def test_no_thumbnail_is_kept_beyond_the_limit(tmp_path):
    room = len(encode_thumbnail(RED))
    kept = Thumbnails(tmp_path / "t.sqlite", most_bytes=room)
    hashes = kept.add({"red": RED, "blue": BLUE})
    assert kept.hashes() == hashes
    assert kept.read(hashes.values()).keys() == {hashes["red"]}
    full = Thumbnails(tmp_path / "t.sqlite", most_bytes=room)
    full.add({"blue": BLUE})
    assert full.read(hashes.values()).keys() == {hashes["red"]}


def test_reading_where_nothing_was_kept_writes_nothing(tmp_path):
    none = Thumbnails(tmp_path / "samples" / "t.sqlite")
    assert (none.hashes(), none.read(["x"])) == ({}, {})
    assert list(tmp_path.iterdir()) == []
