import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch.utils.data import DataLoader

from data.rows import STRUCT, encode, keys, rows, struct, write
from visplay.data.images.image_folder import UnusableItemError
from visplay.data.sources import open_table
from visplay.data.table_collections import ImageTable, LabelledTable

MEASURE = """
import json, sys
from visplay.data.table_collections import ImageTable, LabelledTable

def read_mebibytes(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(name + ":"))

ImageTable(sys.argv[2])  # what the libraries load at the first use, and the pools they keep, are not counted
LabelledTable(sys.argv[2])[0]
start = read_mebibytes("VmRSS")
images = ImageTable(sys.argv[1])
converted = read_mebibytes("VmRSS")
labelled = LabelledTable(sys.argv[1])
opened = read_mebibytes("VmRSS")
facts = len(images), len(labelled), images[399].key, labelled[399].problem
print(json.dumps([facts, converted - start, opened - converted]))
"""


class TestOpenTable:
    def check(self, table, count):
        assert table["answer"][:] == [f" {n}" for n in range(count)]
        assert table[count - 1]["images"] == [struct(count - 1)]
        assert table.cache_files

    def test_parquet(self, path):
        self.check(open_table(path), 5)
        self.check(open_table(str(path), split=None), 5)

    @pytest.mark.parametrize("create", [pa.ipc.new_stream, pa.ipc.new_file], ids=["stream", "file"])
    def test_arrow(self, tmp_path, create):
        table = rows(3)
        with create(str(tmp_path / "rows.arrow"), table.schema) as writer:
            writer.write_table(table)
        self.check(open_table(tmp_path / "rows.arrow"), 3)

    def test_pattern(self, tmp_path):
        for part in (0, 1, 2):
            pq.write_table(rows(3, start=3 * part), tmp_path / f"part-{part}.parquet")
        (tmp_path / "part-3.txt").touch()
        self.check(open_table(f"{tmp_path}/part-*.parquet"), 9)
        self.check(open_table(tmp_path / "part-[01].parquet"), 6)
        self.check(open_table(f"{tmp_path}/**/part-0.parquet"), 3)

    def test_names_that_look_like_patterns(self, tmp_path):
        file = tmp_path / "a[1] {b}" / "x,*?@test.parquet"
        file.parent.mkdir()
        pq.write_table(rows(3), file)
        self.check(open_table(file), 3)
        self.check(open_table(file.parent, "test"), 3)

    def test_directory_is_searched_recursively(self, tmp_path):
        for part, name in enumerate(["data/0.parquet", "data/b/1.PARQUET", "more/0.parquet"]):
            (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(rows(2, start=2 * part), tmp_path / "set" / name)
        write(tmp_path / "set" / ".hidden" / "x.parquet", other=[1])
        (tmp_path / "set" / "README.md").write_text("not looked at")
        self.check(open_table(tmp_path / "set"), 6)

    def test_splits_of_a_directory(self, tmp_path):
        for name, count in {"data/train-00000-of-00001": 3, "test/0": 2, "latest": 1, "a/validation": 4}.items():
            (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(rows(count), tmp_path / "set" / f"{name}.parquet")
        assert len(open_table(tmp_path / "set")) == 4
        assert len(open_table(tmp_path / "set", "test")) == 2
        assert len(open_table(tmp_path / "set", "validation")) == 4
        with pytest.raises(ValueError, match=r"split: 'dev' is no split of '.*set'; it has \['test', 'train', 'valid"):
            open_table(tmp_path / "set", "dev")
        with pytest.raises(ValueError, match="split: None is no split of"):
            open_table(tmp_path / "set", None)

    def test_save_to_disk(self, tmp_path):
        saved = datasets.Dataset(rows(5)).select([0, 1, 2])
        saved.save_to_disk(tmp_path / "saved")
        self.check(open_table(tmp_path / "saved"), 3)
        saved.with_format("torch", columns=["answer"]).save_to_disk(tmp_path / "formatted")
        self.check(open_table(tmp_path / "formatted"), 3)

    def test_save_to_disk_with_splits(self, tmp_path):
        one = datasets.Dataset(rows(3))
        datasets.DatasetDict({"test": one}).save_to_disk(tmp_path / "saved")
        self.check(open_table(tmp_path / "saved", "test"), 3)
        self.check(open_table(tmp_path / "saved", None), 3)
        with pytest.raises(ValueError, match=r"split: 'train' is no split of '.*saved'; it has \['test'\]"):
            open_table(tmp_path / "saved")

    @pytest.mark.parametrize(
        ("feature", "cell"),
        [
            (datasets.Image(), lambda data: data),
            (datasets.List(datasets.Image()), lambda data: [data]),
            (datasets.LargeList(datasets.Image()), lambda data: [data]),
            (datasets.List({"image": datasets.Image(mode="L")}), lambda data: [{"image": data}]),
        ],
        ids=["image", "list", "large-list", "nested"],
    )
    def test_nothing_is_decoded(self, tmp_path, feature, cell):
        rows = datasets.Dataset.from_dict({"x": [cell(encode(1))]}, features=datasets.Features({"x": feature}))
        rows.to_parquet(tmp_path / "a.parquet")
        rows.save_to_disk(tmp_path / "saved")
        for table in (open_table(tmp_path / "a.parquet"), open_table(tmp_path / "saved")):
            assert table[0]["x"] == cell(struct(1))
            assert "decode=True" not in str(table.features)

    def test_a_changed_file_is_read_anew(self, path):
        assert len(open_table(path)) == 5
        pq.write_table(rows(7), path)
        assert len(open_table(path)) == 7


class TestBadSources:
    @pytest.mark.parametrize(
        "source", ["nowhere", "/no/where", "./a/b", "../a/b", "a/b/c", "a/b.parquet", "", "owner/"]
    )
    def test_what_does_not_exist_is_not_asked_of_the_hub(self, source, monkeypatch):
        monkeypatch.setattr(datasets, "load_dataset", None)
        with pytest.raises(FileNotFoundError, match=rf"source: '{source}' does not exist; give a \.parquet or"):
            open_table(source)

    def test_pattern_without_files(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"source: no file matches '.*\*\.parquet'; give a \.parquet or"):
            open_table(f"{tmp_path}/*.parquet")

    @pytest.mark.parametrize("source", ["owner/name", "owner/name@test", "LMMs-Lab-Turtle/Vision-SR1-47K"])
    def test_hub_out_of_reach(self, source):
        name = source.partition("@")[0]
        with pytest.raises(OSError, match=rf"source: '{name}' is no path here, .* Hub .*ConnectionError: .*; give a"):
            open_table(source)

    def test_neither_parquet_nor_arrow(self, tmp_path):
        (tmp_path / "a.csv").write_text("problem,answer")
        with pytest.raises(ValueError, match=r"source: '.*a\.csv' is no \.parquet or \.arrow file; give"):
            open_table(tmp_path / "a.csv")
        with pytest.raises(ValueError, match="holds neither parquet nor arrow files"):
            open_table(tmp_path)

    def test_both_parquet_and_arrow(self, path):
        path.with_name("x.arrow").touch()
        with pytest.raises(ValueError, match=r"holds files of several kinds, \['\.arrow', '\.parquet'\]"):
            open_table(path.parent)

    def test_flipped_byte(self, tmp_path):
        pq.write_table(rows(5), tmp_path / "x.parquet", compression="none", write_page_checksum=True)
        data = bytearray((tmp_path / "x.parquet").read_bytes())
        data[data.index(b"IDAT") + 5] ^= 1
        (tmp_path / "x.parquet").write_bytes(data)
        with pytest.raises(ValueError, match="(?s)cannot be read as a table: .*CRC checksum"):
            open_table(tmp_path / "x.parquet")

    @pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
    @pytest.mark.parametrize("content", [b"", b"PAR1", b"a text that is no table at all"])
    def test_damaged(self, tmp_path, name, content):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"source: '.*{name}' cannot be read as a table: "):
            open_table(tmp_path / name)

    def test_damaged_second_file(self, path):
        path.with_name("z.parquet").write_bytes(path.read_bytes()[:-30])
        with pytest.raises(ValueError, match="cannot be read as a table: "):
            open_table(path.parent)

    def test_files_with_other_columns(self, path):
        write(path.with_name("z.parquet"), other=[1])
        with pytest.raises(ValueError, match="(?s)cannot be read as a table: .*column names don't match"):
            open_table(path.parent)

    def test_damaged_saved_directory(self, tmp_path):
        datasets.Dataset(rows(2)).save_to_disk(tmp_path / "saved")
        (tmp_path / "saved" / "data-00000-of-00001.arrow").unlink()
        with pytest.raises(ValueError, match="saved' cannot be read as a table: FileNotFoundError"):
            open_table(tmp_path / "saved")

    @pytest.mark.parametrize("offsets", [(0, 2**30, 2**30 + 7), (0, -(2**30), 5), (0, 9, 7)])
    def test_saved_with_offsets_that_lead_out_of_it(self, tmp_path, offsets):
        """A table that is mapped as it is; read at such an offset, the process would end with a signal."""
        datasets.Dataset.from_dict({"problem": ["abc", "defg"], "answer": ["a", "b"]}).save_to_disk(tmp_path / "saved")
        (file,) = (tmp_path / "saved").glob("*.arrow")
        data, good = file.read_bytes(), np.array([0, 3, 7], np.int32).tobytes()
        assert data.count(good) == 1
        file.write_bytes(data.replace(good, np.array(offsets, np.int32).tobytes()))
        with pytest.raises(ValueError, match="source: .*saved' cannot be read as a table: ArrowInvalid: Column 0"):
            open_table(tmp_path / "saved")

    def test_what_a_table_would_have_a_library_decode_is_left_as_it_is(self, tmp_path):
        """Sound, video and the like need libraries that are not here, and nobody asks for them."""
        sound = datasets.Features({"problem": datasets.Value("string"), "sound": datasets.Audio()})
        table = pa.table({"problem": ["a"], "sound": pa.array([struct(0)], STRUCT)})
        datasets.Dataset(table, info=datasets.DatasetInfo(features=sound)).save_to_disk(tmp_path / "saved")
        assert open_table(tmp_path / "saved")[0] == {"problem": "a", "sound": struct(0)}

    def test_no_rows(self, tmp_path):
        pq.write_table(rows(0), tmp_path / "a.parquet")
        datasets.Dataset(rows(0)).save_to_disk(tmp_path / "saved")
        for name in ("a.parquet", "saved"):
            with pytest.raises(ValueError, match=rf"^source: '.*{name}' must hold at least one row, got none$"):
                open_table(tmp_path / name)

    def test_split_that_a_file_has_not(self, path):
        with pytest.raises(ValueError, match=r"split: 'test' is no split of '.*rows\.parquet'; it has \['train'\]"):
            open_table(path, "test")

    @pytest.mark.parametrize("split", ["train[:10]", "train+test", ""])
    def test_slices_would_shift_the_rows(self, path, split):
        with pytest.raises(ValueError, match="must be the name of a split, without a slice"):
            open_table(path, split)


class TestHub:
    """What is asked of the library; its answer is put in its place."""

    @pytest.fixture
    def asked(self, monkeypatch):
        calls = []

        def load(name, **options):
            calls.append((name, options))
            return datasets.Dataset(rows(3), split=datasets.NamedSplit(options["split"]))

        monkeypatch.setattr(datasets, "load_dataset", load)
        return calls

    def test_name_split_and_revision(self, asked):
        assert keys(ImageTable("owner/name")) == ["owner/name:0", "owner/name:1", "owner/name:2"]
        assert LabelledTable("owner/name@test", revision="v1")[2].key == "owner/name@test:2"
        assert LabelledTable("owner/name", "test")[2].answer == "2"
        assert asked == [
            ("owner/name", {"split": "train", "revision": None}),
            ("owner/name", {"split": "test", "revision": "v1"}),
            ("owner/name", {"split": "test", "revision": None}),
        ]

    def test_what_exists_here_comes_first(self, asked, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "owner").mkdir()
        datasets.Dataset(rows(2)).save_to_disk("owner/name")
        assert keys(ImageTable("owner/name")) == ["name:0", "name:1"]
        assert asked == []

    @pytest.mark.parametrize("kind", [ImageTable, LabelledTable])
    def test_a_table_of_the_hub_reads_no_file_of_this_machine(self, monkeypatch, tmp_path, kind):
        here = tmp_path / "private.png"
        here.write_bytes(encode())
        table = rows(1).set_column(2, "images", pa.array([str(here)]))
        monkeypatch.setattr(datasets, "load_dataset", lambda name, split, **_: datasets.Dataset(table, split=split))
        with pytest.raises(UnusableItemError, match="a path, in a table of the Hub, which must hold its images"):
            kind("owner/name")[0]

    def test_unknown_split(self, monkeypatch):
        def load(name, **_):
            raise ValueError("Unknown split \"dev\". Should be one of ['train', 'test'].")

        monkeypatch.setattr(datasets, "load_dataset", load)
        with pytest.raises(ValueError, match=r"source: 'owner/name' .*\(split 'dev'\).* one of \['train', 'test'\]"):
            open_table("owner/name@dev")


class TestElsewhere:
    """Workers and other processes."""

    @pytest.mark.parametrize("kind", [ImageTable, LabelledTable])
    def test_pickles_hold_no_images(self, tmp_path, kind):
        noise = np.random.default_rng(0).bytes(100_000)
        pq.write_table(rows(3, extra=[noise] * 3), tmp_path / "x.parquet")
        data = pickle.dumps(kind(tmp_path / "x.parquet"))
        assert len(data) < 20_000
        assert keys(pickle.loads(data)) == ["x:0", "x:1", "x:2"]

    def test_an_error_keeps_its_parts(self):
        error = pickle.loads(pickle.dumps(UnusableItemError("x:1", "no answer: None")))
        assert (error.key, error.reason, str(error)) == ("x:1", "no answer: None", "x:1: no answer: None")

    def test_in_the_workers_of_a_data_loader(self, path):
        loader = DataLoader(LabelledTable(path), batch_size=3, collate_fn=list, num_workers=2)
        assert [[example.key for example in batch] for batch in loader] == [
            ["rows:0", "rows:1", "rows:2"],
            ["rows:3", "rows:4"],
        ]

    @pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
    def test_opening_takes_no_memory(self, tmp_path):
        """400 rows of 200 kB are 80 MB, of which the conversion must keep nothing and opening must read nothing.

        Another table of that size was converted before, so that the allocator's pools are there; 8 MiB are left for
        what they keep back, 4 MiB for page tables and the schema.
        """
        source, before = tmp_path / "large.parquet", tmp_path / "before.parquet"
        noise = np.random.default_rng(0).bytes(200_000)
        images = pa.array([[{"bytes": encode(n) + noise, "path": None}] for n in range(400)], pa.list_(STRUCT))
        pq.write_table(rows(400, images=images), source, row_group_size=50, compression="none", use_dictionary=False)
        shutil.copy(source, before)
        environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
        run = subprocess.run(
            [sys.executable, "-c", MEASURE, source, before],
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert run.returncode == 0, run.stderr
        facts, converted_mebibytes, opened_mebibytes = json.loads(run.stdout)
        assert facts == [400, 400, "large:399", "Question 399?"]
        assert converted_mebibytes < 8
        assert opened_mebibytes < 4


@pytest.mark.parametrize("hidden", [".Trash-1000", "@eaDir", "#recycle", "__MACOSX", "thumbnails"])
def test_hidden_directories_hold_no_tables_either(tmp_path, caplog, hidden):
    for directory in (tmp_path, tmp_path / hidden, tmp_path / "part" / hidden):
        directory.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"x": [len(directory.parts)]}), directory / "rows.parquet")
    (tmp_path / "README.md").touch()
    assert len(open_table(tmp_path)) == 1
    assert "1 tables, left out 1 .md, 2 hidden or of the system" in caplog.records[0].getMessage()
    assert len(open_table(f"{tmp_path}/**/*.parquet")) == 1
    assert len(open_table(f"{tmp_path / hidden}/*.parquet")) == 1
