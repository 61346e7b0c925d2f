import io
import tarfile
import threading
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.rows import STRUCT, encode, keys, number, struct, unusable, write
from visplay.data.draws import Draws, NothingUsableError
from visplay.data.images.decoding import ImageLimits
from visplay.data.module import ImageSource
from visplay.data.streams.image_stream import ImageStream, Streaming
from visplay.data.streams.retrying import call_again, call_within
from visplay.data.streams.shard_files import ParquetShard, TarShard
from visplay.functional.phases import buffered_indices

SMALL = Streaming(shuffle_buffer=8, prefetch=5, workers=2, retries=2, pause_seconds=0.001)
SIZES = (7, 0, 12, 1, 20)


def write_parquet(path, numbers, group=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": pa.array([struct(n) for n in numbers], STRUCT)}), path, row_group_size=group)
    return path


def write_tar(path, members, form=tarfile.PAX_FORMAT):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def sample(n):
    return [(f"{n:06d}.png", encode(n)), (f"{n:06d}.txt", b"text"), (f"{n:06d}.json", b"{}")]


def write_shards(directory, kind, sizes=SIZES):
    first = 0
    for shard, size in enumerate(sizes):
        numbers = range(first, first + size)
        if kind == "parquet":
            write_parquet(directory / f"{shard}.parquet", numbers)
        else:
            write_tar(directory / f"{shard}.tar", [member for n in numbers for member in sample(n)])
        first += size
    return directory


@pytest.fixture(autouse=True)
def _short_runs(monkeypatch):
    monkeypatch.setattr("visplay.data.streams.shard_files._MEMBERS", 4)


@pytest.fixture(params=["parquet", "tar"])
def shards(request, tmp_path):
    return write_shards(tmp_path / "shards", request.param)


def open_stream(source, streaming=SMALL, **settings):
    return ImageStream(source, streaming=streaming, **settings)


def numbers(items):
    return [number(item.image) for item in items]


class TestOrder:
    def test_every_item_comes_once_in_a_pass(self):
        parts = [3, 0, 5, 1, 4]
        drawn = buffered_indices(0, 39, parts, buffer=4, seed=1)
        passes = [drawn[start : start + 13] for start in (0, 13, 26)]
        assert all(sorted(each) == list(range(13)) for each in passes)
        assert passes[0] != passes[1] != passes[2]
        assert drawn != buffered_indices(0, 39, parts, buffer=4, seed=2)

    def test_is_a_function_of_the_position(self):
        parts = [3, 0, 5, 1, 4]
        whole = buffered_indices(0, 40, parts, buffer=4, seed=1)
        for start in range(40):
            assert buffered_indices(start, 40 - start, parts, buffer=4, seed=1) == whole[start:]

    def test_few_parts_are_needed_at_a_time(self):
        parts = [5] * 20
        drawn = buffered_indices(0, 100, parts, buffer=15, seed=0)
        runs = [drawn[start : start + 15] for start in range(0, 90, 15)]
        assert [len({index // 5 for index in run}) for run in runs] == [3] * 6
        assert all(run != sorted(run) for run in runs)

    def test_one_buffer_of_all_is_a_permutation(self):
        orders = Counter(tuple(buffered_indices(0, 3, [2, 1], buffer=9, seed=seed)) for seed in range(600))
        assert len(orders) == 6
        assert min(orders.values()) > 60

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"buffer": 0}, "buffer: must be at least 1, got 0"),
            ({"parts": [0, 0]}, "size: must be at least 1, got 0"),
            ({"start": -1}, "start: must be at least 0, got -1"),
        ],
    )
    def test_what_has_none(self, changed, message):
        with pytest.raises(ValueError, match=message):
            buffered_indices(**{"start": 0, "count": 1, "parts": [1], "buffer": 1, "seed": 0} | changed)


class TestDraws:
    def test_every_image_once_in_a_pass(self, shards):
        draws = Draws(open_stream(shards), seed=3)
        first, second = draws.draw(40), [*draws.draw(13), *draws.draw(27)]
        assert sorted(numbers(first)) == sorted(numbers(second)) == list(range(40))
        assert numbers(first) != numbers(second)
        assert draws.position == 80
        assert not draws.skipped

    def test_goes_on_from_every_position(self, shards):
        whole = numbers(Draws(open_stream(shards), seed=1).draw(83))
        for position in range(80):
            again = Draws(open_stream(shards), seed=1, position=position)
            assert numbers(again.draw(2) + again.draw(1)) == whole[position : position + 3]
        assert numbers(Draws(open_stream(shards), seed=1, position=17).draw(66)) == whole[17:]

    def test_a_batch_is_drawn_again(self, shards):
        stream = open_stream(shards)
        draws = Draws(stream, seed=1)
        batches = [numbers(draws.draw(6)) for _ in range(9)]
        for batch in (2, 0, 5):
            assert numbers(Draws(stream, seed=1, position=6 * batch).draw(6)) == batches[batch]
        assert numbers(draws.draw(6)) == numbers(Draws(open_stream(shards), seed=1, position=54).draw(6))

    @pytest.mark.parametrize("workers", [1, 5])
    @pytest.mark.parametrize("prefetch", [0, 90])
    def test_workers_change_nothing(self, shards, workers, prefetch):
        other = Streaming(shuffle_buffer=8, prefetch=prefetch, workers=workers)
        expected = Draws(open_stream(shards), seed=0).draw(50)
        drawn = Draws(open_stream(shards, other), seed=0).draw(50)
        assert [item.key for item in drawn] == [item.key for item in expected]
        assert numbers(drawn) == numbers(expected)

    def test_parts_in_memory_are_few(self, tmp_path):
        stream = open_stream(write_shards(tmp_path, "parquet", (40, 40, 40)))
        draws = Draws(stream, seed=0)
        for _ in range(30):
            draws.draw(8)
            assert sum(len(reading.result()) for reading in stream._read.values()) <= 2 * (8 + 4)
            assert len(stream._ahead) <= 5

    def test_a_part_is_read_once(self, tmp_path, monkeypatch):
        read, original = Counter(), ParquetShard.read

        def count(shard, part):
            read[shard.name, part.begin] += 1
            return original(shard, part)

        monkeypatch.setattr(ParquetShard, "read", count)
        stream = open_stream(write_shards(tmp_path, "parquet", (40, 40)), replace(SMALL, prefetch=0))
        draws = Draws(stream, seed=0)
        for _ in range(10):
            draws.draw(8)
        assert list(read.values()) == [1] * 20


class TestShards:
    def test_keys(self, tmp_path):
        write_parquet(tmp_path / "a" / "train-0.parquet", range(6))
        write_parquet(tmp_path / "a" / "train-1.parquet", range(6, 8))
        assert keys(open_stream(tmp_path / "a"))[3:] == [*(f"train-0.parquet:{n}" for n in (3, 4, 5))] + [
            "train-1.parquet:0",
            "train-1.parquet:1",
        ]
        write_tar(tmp_path / "b" / "x" / "0.tar", [("./s/0.png", encode(0)), ("1.left.PNG", encode(1))])
        assert keys(open_stream(tmp_path / "b")) == ["x/0.tar:./s/0.png", "x/0.tar:1.left.PNG"]
        assert keys(open_stream(tmp_path / "b" / "x" / "0.tar")) == ["0.tar:./s/0.png", "0.tar:1.left.PNG"]
        assert keys(open_stream(tmp_path / "*" / "x" / "*.tar")) == ["0.tar:./s/0.png", "0.tar:1.left.PNG"]

    @pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_forms_of_tar(self, tmp_path, form):
        long = "d" * 90 + "/" + "f" * 90
        members = [(f"{long}{n}.png", encode(n)) for n in range(10)]
        stream = open_stream(write_tar(tmp_path / "0.tar", members, form))
        assert numbers(stream) == list(range(10))
        assert stream[7].key == f"0.tar:{long}7.png"

    def test_what_is_no_image_of_a_tar(self, tmp_path):
        names = ["../../evil.png", "a/.hidden/1.png", "._2.png", "__MACOSX/3.png", "4.txt", "5.png/6"]
        path = write_tar(tmp_path / "0.tar", [(name, encode(1)) for name in names] + [("/etc/good.png", encode(2))])
        with tarfile.open(path, "a") as tar:
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
                member = tarfile.TarInfo(f"{kind!r}.png")
                member.type, member.linkname = kind, "/etc/passwd"
                tar.addfile(member)
        assert keys(open_stream(path)) == ["0.tar:/etc/good.png"]
        assert sorted(tmp_path.iterdir()) == [path]

    def test_a_name_that_is_not_utf8(self, tmp_path):
        path = write_tar(tmp_path / "0.tar", [("caf\udce9.png", encode(3))], tarfile.GNU_FORMAT)
        item = open_stream(path)[0]
        assert (item.key, number(item.image)) == ("0.tar:caf\\xe9.png", 3)

    def test_unusable_images(self, tmp_path):
        damaged = encode(3)[:40]
        tar = open_stream(write_tar(tmp_path / "0.tar", [("0.png", encode(0)), ("1.png", damaged), ("2.png", b"")]))
        assert unusable(tar, 1).startswith("0.tar:1.png: 40 bytes: ")
        assert unusable(tar, 2).startswith("0.tar:2.png: 0 bytes: ")
        cells = [[struct(0)], None, [struct(1), struct(2)], [{"bytes": damaged, "path": None}]]
        table = open_stream(write(tmp_path / "t" / "0.parquet", images=pa.array(cells, pa.list_(STRUCT))))
        assert number(table[0].image) == 0
        assert unusable(table, 1) == "0.parquet:1: 0 images; an item of a stream must have one"
        assert unusable(table, 2) == "0.parquet:2: 2 images; an item of a stream must have one"
        assert unusable(table, 3).startswith("0.parquet:3: 40 bytes: ")
        draws = Draws(tar, seed=0)
        assert numbers(draws.draw(2)) == [0, 0]
        assert set(draws.skipped) == {"0.tar:1.png", "0.tar:2.png"}

    def test_limits_column_and_paths(self, tmp_path):
        (tmp_path / "5.png").write_bytes(encode(5))
        path = write(tmp_path / "0.parquet", image=[encode(0)], figure=["5.png"])
        assert numbers(open_stream(path)) == [0]
        assert numbers(open_stream(path, column="figure")) == [5]
        assert "max_pixels is 100" in unusable(open_stream(path, limits=ImageLimits(max_pixels=100)), 0)
        with pytest.raises(ValueError, match="got none; 0.parquet: ValueError: 'pixels' is none of its columns"):
            open_stream(path, column="pixels")

    def test_the_index_is_kept_until_a_file_changes(self, tmp_path, monkeypatch):
        path = write_tar(tmp_path / "0.tar", sample(0))
        assert len(open_stream(path)) == 1
        passes, original = [], TarShard.find_parts
        monkeypatch.setattr(TarShard, "find_parts", lambda *given: passes.append(1) or original(*given))
        assert len(open_stream(path)) == 1
        assert not passes
        write_tar(path, [*sample(0), *sample(1)])
        assert len(open_stream(path)) == 2
        assert passes

    def test_splits(self, tmp_path):
        write_tar(tmp_path / "train-0.tar", sample(0))
        write_tar(tmp_path / "val-0.tar", sample(1))
        assert numbers(open_stream(tmp_path)) == [0]
        assert numbers(open_stream(tmp_path, split="validation")) == [1]
        with pytest.raises(ValueError, match="split: 'test' is no split of"):
            open_stream(tmp_path, split="test")


class TestFailures:
    @pytest.mark.parametrize("damage", ["cut", "empty", "text", "header"])
    def test_a_shard_that_cannot_be_opened(self, shards, damage, caplog):
        path = next(shards.glob("2.*"))
        data = path.read_bytes()
        begin = 3 * 1536 + (1024 if damage == "header" else 0)  # the fourth image is in blocks of its own
        whole = {"cut": data[: len(data) // 2], "empty": b"", "text": b"no archive" * 99}
        path.write_bytes(whole.get(damage, data[:begin] + b"\xff" * 700 + data[begin + 700 :]))
        if damage == "header" and path.suffix == ".parquet":
            path.write_bytes(data[:-9] + b"\xff" * 5 + data[-4:])
        draws = Draws(open_stream(shards), seed=0)
        assert list(draws.items.skipped) == [path.name]
        assert sorted(numbers(draws.draw(28))) == [n for n in range(40) if not 7 <= n < 19]
        assert f"28 images in 5 shards, left out 1: {path.name}: " in caplog.text

    def test_a_damaged_part(self, tmp_path, caplog):
        directory = write_shards(tmp_path, "parquet")
        path = directory / "2.parquet"
        metadata, data = pq.read_metadata(path), bytearray(path.read_bytes())
        begin = metadata.row_group(1).column(0).data_page_offset
        data[begin : begin + 200] = b"\xff" * 200
        path.write_bytes(data)
        draws = Draws(open_stream(directory), seed=0)
        assert sorted(numbers(draws.draw(36))) == [n for n in range(40) if not 11 <= n < 15]
        assert list(draws.skipped) == ["2.parquet (part at 1, 4 images)"]
        assert "skipped 2.parquet (part at 1, 4 images): " in caplog.text

    def test_a_shard_that_vanishes_and_comes_back(self, shards):
        stream = open_stream(shards)
        whole = numbers(Draws(stream, seed=0).draw(80))
        path = next(shards.glob("4.*"))
        stream = open_stream(shards)
        path.rename(shards / "gone")
        draws = Draws(stream, seed=0)
        assert numbers(draws.draw(20)) == [n for n in whole[:40] if n < 20]
        assert len(draws.skipped) == 5
        assert all("FileNotFoundError" in reason for reason in draws.skipped.values())
        (shards / "gone").rename(path)
        assert (
            numbers(Draws(open_stream(shards), seed=0, position=draws.position).draw(40))
            == whole[draws.position :][:40]
        )

    def test_a_read_that_fails_at_first(self, tmp_path, monkeypatch, caplog):
        tries, original = Counter(), TarShard.read

        def flaky(shard, part):
            tries[shard.name, part.begin] += 1
            if tries[shard.name, part.begin] <= 2:
                raise ConnectionError("the server is busy")
            return original(shard, part)

        stream = open_stream(write_shards(tmp_path, "tar"))
        monkeypatch.setattr(TarShard, "read", flaky)
        draws = Draws(stream, seed=0)
        assert sorted(numbers(draws.draw(40))) == list(range(40))
        assert not draws.skipped
        assert set(tries.values()) >= {3}

    def test_tries_are_counted(self, tmp_path, monkeypatch):
        tries = Counter()

        def fail(shard, part):
            tries[part.begin] += 1
            raise ConnectionError("the server is down")

        stream = open_stream(write_shards(tmp_path, "parquet", (12,)), replace(SMALL, prefetch=0))
        monkeypatch.setattr(ParquetShard, "read", fail)
        with pytest.raises(NothingUsableError, match="ConnectionError: the server is down"):
            Draws(stream, seed=0).draw(1)
        assert sorted(tries.values()) == [1, 1, 3]  # the first is given up after three

    def test_a_read_that_hangs(self, tmp_path, monkeypatch):
        def hang(shard, part):
            if shard.name == "2.tar":
                ended.wait(20)
            return original(shard, part)

        original, ended = TarShard.read, threading.Event()
        quick = Streaming(shuffle_buffer=50, prefetch=0, retries=0, timeout_seconds=1)
        stream = open_stream(write_shards(tmp_path, "tar"), quick)
        monkeypatch.setattr(TarShard, "read", hang)
        draws = Draws(stream, seed=0)
        assert sorted(numbers(draws.draw(28))) == [n for n in range(40) if not 7 <= n < 19]
        assert set(draws.skipped.values()) == {"TimeoutError: no answer within 1 seconds"}
        ended.set()

    def test_what_is_no_stream(self, tmp_path):
        encoded = write_tar(tmp_path / "texts" / "0.tar", [("0.txt", b"text")])
        with pytest.raises(ValueError, match="must hold at least one image, got none$"):
            open_stream(encoded)
        with pytest.raises(ValueError, match="got none; 0.tar: ReadError: "):
            open_stream(_damage(tmp_path / "damaged" / "0.tar"))
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "0.png").write_bytes(encode())
        with pytest.raises(
            ValueError, match="holds neither parquet nor tar files, but 1 .png; give a .parquet or .tar"
        ):
            open_stream(tmp_path / "photos")
        with pytest.raises(FileNotFoundError, match="source: 'none.tar' does not exist; give a .parquet or .tar file"):
            open_stream("none.tar")

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ({"shuffle_buffer": 0}, "shuffle_buffer: must be at least 1, got 0"),
            ({"workers": 0}, "workers: must be at least 1, got 0"),
            ({"prefetch": -1}, "prefetch: must be at least 0, got -1"),
            ({"retries": -1}, "retries: must be at least 0, got -1"),
            ({"timeout_seconds": 0}, "timeout_seconds: must be above 0, got 0"),
        ],
    )
    def test_settings(self, setting, message):
        with pytest.raises(ValueError, match=message):
            Streaming(**setting)


def _damage(path):
    path.parent.mkdir()
    path.write_bytes(b"no archive" * 99)
    return path


class TestHub:
    @pytest.fixture
    def hub(self, monkeypatch, tmp_path):
        """A file system in memory stands for the Hub's."""
        memory = fsspec.filesystem("memory")

        def load(path, revision=None):
            assert (path, revision) == ("owner/name", "main")
            urls = sorted(memory.unstrip_protocol(file) for file in memory.find("/hub"))
            return SimpleNamespace(config=SimpleNamespace(data_files={datasets.Split.TRAIN: urls}))

        monkeypatch.setattr("visplay.data.sources.check_reachable", lambda name, kind: None)
        monkeypatch.setattr(datasets, "load_dataset_builder", load)
        yield memory
        memory.rm("/hub", recursive=True)

    @pytest.mark.parametrize("kind", ["parquet", "tar"])
    def test_is_read_where_it_is(self, hub, tmp_path, kind):
        hub.put(str(write_shards(tmp_path / "here", kind)) + "/", "/hub/data/", recursive=True)
        here, there = open_stream(tmp_path / "here"), open_stream("owner/name", revision="main")
        expected, drawn = Draws(here, seed=5).draw(50), Draws(there, seed=5).draw(50)
        assert [item.key for item in drawn] == [item.key for item in expected]
        assert numbers(drawn) == numbers(expected)

    def test_a_path_in_its_table_is_not_read(self, hub, tmp_path):
        (tmp_path / "5.png").write_bytes(encode(5))
        path = write(tmp_path / "0.parquet", image=[encode(0)], figure=[str(tmp_path / "5.png")])
        hub.put(str(path), "/hub/data/0.parquet")
        stream = open_stream("owner/name", revision="main", column="figure")
        assert "a path, in a table of the Hub, which must hold its images" in unusable(stream, 0)

    def test_what_the_hub_has_not(self, monkeypatch):
        def fail(path, revision):
            raise datasets.exceptions.DatasetNotFoundError("no such data set")

        monkeypatch.setattr("visplay.data.sources.check_reachable", lambda name, kind: None)
        monkeypatch.setattr(datasets, "load_dataset_builder", fail)
        with pytest.raises(OSError, match=r"'owner/name' is no path here.*: no such data set; give a .parquet or .tar"):
            open_stream("owner/name")

    def test_other_files(self, hub):
        hub.pipe("/hub/a.csv", b"a,b")
        with pytest.raises(ValueError, match=r"of 'owner/name' is of \['.csv'\] files; give a .parquet or .tar"):
            open_stream("owner/name", revision="main")
        with pytest.raises(ValueError, match="split: 'test' is no split of 'owner/name'; it has"):
            open_stream("owner/name@test", revision="main")


class TestRetrying:
    def test_pauses_double(self, monkeypatch):
        pauses = []
        monkeypatch.setattr(time, "sleep", pauses.append)
        with pytest.raises(ValueError, match="invalid literal"):
            call_again(lambda: int("x"), retries=3, pause_seconds=0.5)
        assert pauses == [0.5, 1.0, 2.0]

    def test_an_error_of_the_call_is_its_own(self):
        def fail():
            raise TimeoutError("of the server")

        with pytest.raises(TimeoutError, match="of the server"):
            call_within(fail, timeout_seconds=5)
        assert call_within(lambda: 3, timeout_seconds=5) == 3


def test_a_source(tmp_path):
    write_shards(tmp_path, "tar")
    assert isinstance(ImageSource(str(tmp_path), streaming=True).open(), ImageStream)
    stream = ImageSource(str(tmp_path / "0.tar"), streaming=SMALL).open()
    assert stream.streaming is SMALL
    assert numbers(stream) == list(range(7))
