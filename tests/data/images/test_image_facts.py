"""What is known of images: bytes, hashes, licences, from files, tables and pixels."""

import hashlib
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data.rows import STRUCT, encode, rows, struct
from visplay.data.images.image_facts import file_facts, hash_pixels, pixel_facts
from visplay.data.images.image_folder import ImageFolder
from visplay.data.table_collections import ImageTable
from visplay.types import UnlabeledImage


def test_a_file(tmp_path):
    exif = Image.Exif()
    exif[33432], exif[315] = "(c) me\0", "Ada"
    Image.new("RGB", (16, 16)).save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "b.png").write_bytes(encode(0))
    folder = ImageFolder(tmp_path)
    noted, bare = (file_facts(folder, key) for key in folder.keys)
    assert noted.encoded == (tmp_path / "a.jpg").read_bytes()
    assert (noted.sha256, noted.hashed) == (hashlib.sha256(noted.encoded).hexdigest(), "file")
    assert (noted.licence, noted.attribution) == ("(c) me", "Ada")
    assert (bare.licence, bare.attribution) == (None, None)


def test_a_table(tmp_path):
    """A column counts before EXIF, and the first of its names before the others; an empty cell says nothing."""
    cells = pa.array([[struct(0), struct(1)], [struct(2)]], pa.list_(STRUCT))
    columns = {"Copyright": ["c", None], "license": ["MIT", ""], "url": ["u", None], "author": ["a", ""]}
    table = rows(2, images=cells)
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values, pa.string()))
    pq.write_table(table, tmp_path / "t.parquet")
    images = ImageTable(tmp_path / "t.parquet")
    second, last = file_facts(images, images[1].key), file_facts(images, images[2].key)
    assert (images[1].key, second.encoded) == ("t:0#1", encode(1))
    assert (second.licence, second.attribution) == ("MIT", "a")
    assert (last.encoded, last.licence, last.attribution) == (encode(2), None, None)


def test_pixels_alone():
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    facts = pixel_facts(UnlabeledImage("k", image))
    assert facts.sha256 == hashlib.sha256(b"2x1:\x01\x02\x03\x01\x02\x03").hexdigest()
    assert facts.hashed == "pixels"
    assert Image.open(BytesIO(facts.encoded)).tobytes() == image.tobytes()
    with pytest.raises(ValueError, match="images: 'k' has no image"):
        pixel_facts(UnlabeledImage("k", None))


def test_a_hash_is_of_the_pixels_and_the_shape():
    red = Image.new("RGB", (4, 1), "red")
    assert hash_pixels(red) == hash_pixels(red.copy())
    assert hash_pixels(Image.new("L", (2, 2))) != hash_pixels(Image.new("L", (4, 1)))
