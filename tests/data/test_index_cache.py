"""An index saves time alone: where there can be none, or a damaged one is there, all is looked at again."""

import logging

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from visplay.data.generated import PngEncoder
from visplay.data.images.image_folder import ImageFolder
from visplay.data.index_cache import read_index, write_index
from visplay.data.streams.image_stream import ImageStream


@pytest.fixture
def images(tmp_path):
    """A directory with an image, and with a table that has it too."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    image.save(tmp_path / "a.png")
    pq.write_table(pa.table({"image": [PngEncoder()(image)]}), tmp_path / "a.parquet")
    return tmp_path


@pytest.mark.parametrize("open_images", [ImageFolder, lambda path: ImageStream(path / "a.parquet")])
def test_images_are_read_where_no_index_can_be_kept(images, monkeypatch, caplog, open_images):
    (images / "no directory").touch()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", images / "no directory")
    with caplog.at_level(logging.WARNING):
        assert len(open_images(images)) == 1
    assert "are looked at again at the next start" in caplog.text


def test_a_damaged_index_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    write_index([1, 2], "shards", "a")
    assert (read_index("shards", "a"), read_index("shards", "b")) == ([1, 2], None)
    (file,) = (tmp_path / "shards").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert read_index("shards", "a") is None
