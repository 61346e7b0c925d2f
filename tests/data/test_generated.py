import math
import os
import socket
from contextlib import contextmanager
from dataclasses import replace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin
from torch.utils.data import DataLoader

from visplay.data import generated
from visplay.data.generated import FEATURES, GeneratedDataset, read_examples, write_examples
from visplay.types import Example

RELEASED_COLUMNS = ["problem", "answer", "score", "images", "problem_type"]


def noise(seed: int = 0, width: int = 40, height: int = 30) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def make_examples(count: int = 3) -> list[Example]:
    return [
        Example(
            key=f"夜/é {number}.png#{number % 4}",
            image=noise(number // 2),
            problem=f"¿Cuántos 🎈?\n\t<question> {number}\0",
            answer=r"\frac{1}{3} — «π»",
            problem_type="numerical",
            score=1 / 3 + number,
            votes=(("4", 7), ("", 2), ("четыре", 1)),
            image_id=f"夜/é {number}.png",
            iteration=number + 1,
            label_accuracy=1 / (1 + number),
        )
        for number in range(count)
    ]


def facts(example: Example) -> tuple:
    values = {name: getattr(example, name) for name in Example.__dataclass_fields__}
    image = values.pop("image")
    return values, image.mode, image.size, image.tobytes()


def assert_same(got: list[Example], expected: list[Example]) -> None:
    assert [facts(example) for example in got] == [facts(example) for example in expected]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "iteration-1.parquet"


class TestRoundTrip:
    @pytest.mark.parametrize("count", [1, 3, 32, 33, 100])
    def test_everything_comes_back(self, path, count):
        write_examples(path, make_examples(count))
        assert_same(read_examples(path), make_examples(count))

    def test_of_a_reread_file_is_the_same_file(self, path):
        write_examples(path, make_examples(40))
        first = path.read_bytes()
        write_examples(path, read_examples(path))
        assert path.read_bytes() == first

    def test_defaults_and_odd_values(self, path):
        examples = [
            Example(key="", image=Image.new("RGB", (1, 1)), problem="", answer=""),
            Example(key="", image=noise(), problem="the same key", answer="", score=math.inf, iteration=2**40),
        ]
        write_examples(str(path), examples)
        assert_same(read_examples(str(path)), examples)

    def test_none_at_all(self, path):
        write_examples(path, [])
        assert read_examples(path) == []
        assert datasets.Features.from_arrow_schema(pq.read_schema(path)) == FEATURES

    def test_metadata_of_an_image_does_not_act_on_it(self, path):
        image = noise()
        image.info.update(transparency=(0, 0, 0), exif=b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0")
        write_examples(path, [Example("a", image, "?", "!")])
        assert_same(read_examples(path), [Example("a", noise(), "?", "!")])
        assert "exif" in image.info

    def test_only_rgb(self, path):
        with pytest.raises(ValueError, match=r"examples: the image of 'a' must be RGB, got L"):
            write_examples(path, [Example("a", Image.new("L", (9, 9)), "?", "!")])
        assert os.listdir(path.parent) == []


class TestImages:
    def test_each_distinct_one_is_encoded_once(self, path, monkeypatch):
        sizes = []
        save = PngImagePlugin._save
        monkeypatch.setitem(Image.SAVE, "PNG", lambda image, *rest: (sizes.append(image.size), save(image, *rest)))
        images = [noise(0), noise(1), noise(0), noise(0, width=30, height=40)] * 20
        write_examples(path, [Example(str(i), image, "?", "!") for i, image in enumerate(images)])
        assert sizes == [(40, 30), (40, 30), (30, 40)]

    def test_shared_ones_take_room_once_and_come_back_shared(self, path):
        image = noise(0, 400, 300)
        write_examples(path, [Example("0", image, "?", "!")])
        alone = path.stat().st_size
        write_examples(path, [Example(str(number), image, "?", "!") for number in range(32)])
        assert path.stat().st_size < 1.1 * alone
        assert len({id(example.image) for example in read_examples(path)}) == 1


class TestDatasetsLibrary:
    @pytest.fixture(autouse=True)
    def _no_network(self, monkeypatch):
        def reject(_, address):
            raise AssertionError(f"connects to {address}")

        monkeypatch.setattr(socket.socket, "connect", reject)

    def check(self, loaded, count):
        assert loaded.features == FEATURES
        assert loaded.column_names[:5] == RELEASED_COLUMNS
        assert len(loaded) == count
        for row, example in zip(loaded, make_examples(count), strict=True):
            image = row.pop("images")
            assert isinstance(image, Image.Image)
            np.testing.assert_array_equal(image, example.image)
            assert [tuple(vote.values()) for vote in row.pop("votes")] == list(example.votes)
            assert row == {name: getattr(example, name) for name in row}

    @pytest.mark.parametrize("count", [3, 70])
    def test_from_parquet(self, path, tmp_path, count):
        write_examples(path, make_examples(count))
        self.check(datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache")), count)

    def test_load_dataset(self, path, tmp_path):
        write_examples(path, make_examples())
        loaded = datasets.load_dataset(
            "parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
        )
        self.check(loaded, 3)

    def test_empty(self, path, tmp_path):
        """The library rejects a data set without rows unless it is streamed."""
        write_examples(path, [])
        loaded = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"), streaming=True)
        assert loaded.features == FEATURES
        assert list(loaded) == []

    def test_what_the_library_writes_can_be_read(self, path, tmp_path):
        write_examples(path, make_examples())
        loaded = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))
        loaded.add_column("extra", [1, 2, 3]).to_parquet(str(tmp_path / "again.parquet"))
        assert_same(read_examples(tmp_path / "again.parquet"), make_examples())


class TestGeneratedDataset:
    def test_one_at_a_time(self, path):
        examples = make_examples(70)
        write_examples(path, examples)
        dataset = GeneratedDataset(path)
        assert len(dataset) == 70
        assert_same([dataset[0], dataset[69], dataset[-1]], [examples[0], examples[69], examples[69]])
        with pytest.raises(IndexError):
            dataset[70]

    def test_outlives_its_file(self, path):
        write_examples(path, make_examples())
        dataset = GeneratedDataset(path)
        path.unlink()
        assert_same(list(dataset), make_examples())

    def test_in_a_data_loader(self, path):
        write_examples(path, make_examples())
        (batch,) = DataLoader(GeneratedDataset(path), batch_size=3, collate_fn=list)
        assert_same(batch, make_examples())


class TestEarlierFiles:
    def test_without_an_estimate_a_label_is_taken_for_right(self, path):
        write_examples(path, make_examples(40))
        pq.write_table(pq.read_table(path).drop_columns("label_accuracy"), path)
        expected = [replace(example, label_accuracy=1.0) for example in make_examples(40)]
        assert_same(read_examples(path), expected)


class TestBadFiles:
    def test_missing(self, path):
        with pytest.raises(FileNotFoundError, match=r"iteration-1\.parquet"):
            read_examples(path)

    @pytest.mark.parametrize("content", [b"", b"PAR1", b"a text that is not parquet at all"])
    def test_not_parquet(self, tmp_path, content):
        (tmp_path / "x.parquet").write_bytes(content)
        with pytest.raises(ValueError, match=r"path: .*x\.parquet is not an undamaged parquet file"):
            read_examples(tmp_path / "x.parquet")

    def test_truncated(self, path):
        write_examples(path, make_examples())
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(ValueError, match="is not an undamaged parquet file"):
            read_examples(path)

    def test_flipped_byte_in_a_page(self, path):
        write_examples(path, make_examples())
        data = bytearray(path.read_bytes())
        data[data.index(b"IDAT") + 100] ^= 1
        path.write_bytes(data)
        with pytest.raises(ValueError, match="is not an undamaged parquet file"):
            read_examples(path)

    def test_missing_columns(self, tmp_path):
        pq.write_table(pa.table({"problem": ["?"], "answer": ["!"], "other": [1]}), tmp_path / "x.parquet")
        with pytest.raises(ValueError, match=r"x\.parquet lacks the columns \['score', 'images', .*'key'\]; it has \["):
            read_examples(tmp_path / "x.parquet")

    def test_other_types(self, path):
        write_examples(path, make_examples())
        table = pq.read_table(path)
        strings = pa.array(["high", "low", "low"])
        pq.write_table(table.set_column(table.column_names.index("score"), "score", strings), path)
        with pytest.raises(ValueError, match="is not an undamaged parquet file"):
            read_examples(path)

    def test_missing_values(self, path):
        write_examples(path, make_examples())
        table = pq.read_table(path)
        answers = pa.array(["4", None, "4"])
        pq.write_table(table.set_column(table.column_names.index("answer"), "answer", answers), path)
        with pytest.raises(ValueError, match=r"missing values in the columns \['answer'\]"):
            read_examples(path)

    def test_without_images(self, path):
        one, other, third = make_examples()
        examples = [replace(one, image=None), other, replace(third, image=None)]
        write_examples(path, examples)
        assert [example.image is None for example in read_examples(path)] == [True, False, True]
        assert [each.images for each in GeneratedDataset(path)][::2] == [(), ()]
        assert pq.read_table(path)["images"].null_count == 2

    @pytest.mark.parametrize("image", [b"no image", None])
    def test_image_that_does_not_decode(self, path, image):
        write_examples(path, make_examples(1))
        table = pq.read_table(path)
        images = pa.array([{"bytes": image, "path": None}], table.schema.field("images").type)
        pq.write_table(table.set_column(table.column_names.index("images"), "images", images), path)
        with pytest.raises(ValueError, match=r"iteration-1\.parquet: the image of '夜/é 0\.png#0' does not decode"):
            read_examples(path)


class TestAtomicity:
    @pytest.fixture
    def kill(self, monkeypatch):
        """Make a function raise as long as the block lasts, and expect that."""

        @contextmanager
        def killing(owner, name):
            def fail(*_):
                raise OSError("killed")

            with monkeypatch.context() as patch:
                patch.setattr(owner, name, fail)
                with pytest.raises(OSError, match="killed"):
                    yield

        return killing

    def test_killed_before_the_file_is_in_place(self, path, kill):
        write_examples(path, make_examples(1))
        with kill(os, "replace"):
            write_examples(path, make_examples(5))
        assert os.listdir(path.parent) == [path.name]
        assert_same(read_examples(path), make_examples(1))

    def test_killed_while_encoding(self, path, kill):
        write_examples(path, make_examples(1))
        with kill(generated.PngEncoder, "__call__"):
            write_examples(path, make_examples(5))
        assert os.listdir(path.parent) == [path.name]
        assert_same(read_examples(path), make_examples(1))

    def test_on_the_disk_before_it_is_in_place(self, path, monkeypatch):
        events = []
        fsync, replace = os.fsync, os.replace
        monkeypatch.setattr(os, "fsync", lambda file: (events.append("fsync"), fsync(file)))
        monkeypatch.setattr(os, "replace", lambda *names: (events.append("replace"), replace(*names)))
        write_examples(path, make_examples(1))
        assert events == ["fsync", "replace", "fsync"]

    def test_file_mode_follows_the_umask(self, path):
        before = os.umask(0o022)
        try:
            write_examples(path, [])
        finally:
            os.umask(before)
        assert path.stat().st_mode & 0o777 == 0o644


def test_an_example_with_several_images_is_rejected(tmp_path):
    example = Example("a", noise(), "?", "!", further_images=(noise(),))
    with pytest.raises(ValueError, match="'a' has 2 images; a row here holds one"):
        write_examples(tmp_path / "x.parquet", [example])
