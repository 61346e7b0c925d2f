import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lightning import LightningModule, Trainer

from data.benchmark_tables import mllm_test, numbers, open_rows
from data.rows import STRUCT, encode, rows, struct, unusable, write
from visplay.data.benchmarks.benchmark import Benchmark
from visplay.data.benchmarks.benchmark_sources import BenchmarkColumns, BenchmarkSource
from visplay.data.benchmarks.benchmark_suite import BenchmarkSuite
from visplay.data.images.image_folder import UnusableItemError
from visplay.data.module import SelfPlayData
from visplay.tiny.splits import compositional, hallucination, heldout, write_splits


class TestTable:
    def test_a_row_without_an_id_column_is_named_by_file_and_row(self, tmp_path):
        for name in ("b", "a"):
            pq.write_table(rows(2), tmp_path / f"{name}.parquet")
        (benchmark,) = BenchmarkSuite((BenchmarkSource("mine", path=str(tmp_path / "*.parquet")),)).open()
        assert benchmark.keys == ("mine/a.parquet:0", "mine/a.parquet:1", "mine/b.parquet:0", "mine/b.parquet:1")

    def test_a_chosen_key_must_identify_rows(self, tmp_path):
        path = tmp_path / "x.parquet"
        pq.write_table(rows(3, id=["a", "a", "b"]), path)
        assert open_rows(path, BenchmarkSource("m", path=str(path))).keys[0] == "m/x.parquet:0"
        chosen = BenchmarkSource("m", path=str(path), columns=BenchmarkColumns(key="id"))
        with pytest.raises(
            ValueError, match=r"columns.key: 'id' of benchmark 'm' has 1 values more than once: \['a'\]"
        ):
            open_rows(path, chosen)
        absent = BenchmarkSource("m", path=str(path), columns=BenchmarkColumns(key="ids"))
        with pytest.raises(ValueError, match="columns.key: benchmark 'm' has no column 'ids'"):
            open_rows(path, absent)

    def test_an_unknown_part_names_those_there_are(self, tmp_path):
        path = tmp_path / "x.parquet"
        pq.write_table(mllm_test(), path)
        with pytest.raises(ValueError, match="no row whose file_name is 'MM-Vet'; its files hold {'mm-vet': 3, "):
            open_rows(path, BenchmarkSource("m", path=str(path), part="MM-Vet"))
        pq.write_table(rows(2), path)
        with pytest.raises(ValueError, match="columns.part: benchmark 'm' has no column 'file_name'"):
            open_rows(path, BenchmarkSource("m", path=str(path), part="mm-vet"))

    def test_identities_do_not_depend_on_which_rows_are_left_out(self, tmp_path):
        cells = pa.array([[struct(1)], [struct(2), struct(3)], [struct(4)]], pa.list_(STRUCT))
        path = write(tmp_path / "x.parquet", problem=["?"] * 3, answer=["1"] * 3, images=cells, id=["a", "a", "b"])
        assert open_rows(path, max_images=1).keys == ("mine/x.parquet:0", "mine/x.parquet:2")

    def test_links_name_their_files(self, tmp_path):
        """A snapshot of the Hub's cache holds links to files that are named by their hashes."""
        write(tmp_path / "blobs" / "0123abcd", **rows(1).to_pydict())
        (tmp_path / "snapshot").mkdir()
        (tmp_path / "snapshot" / "test.parquet").symlink_to(tmp_path / "blobs" / "0123abcd")
        (benchmark,) = BenchmarkSuite((BenchmarkSource("mine", path=str(tmp_path / "snapshot")),)).open()
        assert benchmark.keys == ("mine/test.parquet:0",)

    def test_metadata(self, tmp_path):
        columns = {
            "capability": [["ocr", "math"], []],
            "level": [3, None],
            "difficulty": [float("nan"), 0.5],
            "grid": [[[1]], [[2]]],
            "note": [" ", "odd "],
            "choices": [["a", "1"], ["b", "2"]],
        }
        pq.write_table(rows(2, **columns), tmp_path / "x.parquet")
        source = BenchmarkSource("mine", path="x", columns=BenchmarkColumns(options="choices"))
        assert [example.metadata for example in open_rows(tmp_path / "x.parquet", source)] == [
            {"capability": '["ocr", "math"]', "level": "3", "options": '["a", "1"]'},
            {"difficulty": "0.5", "note": "odd", "options": '["b", "2"]'},
        ]

    def test_an_image_missing_between_others(self, tmp_path):
        cells = pa.array([[struct(1), None, struct(3)]], pa.list_(STRUCT))
        path = write(tmp_path / "x.parquet", problem=["?"], answer=["1"], images=cells)
        assert unusable(open_rows(path), 0).endswith("image 2 of 3 is missing")

    def test_blank_questions(self, tmp_path):
        columns = {"problem": ["<image>", None], "answer": ["1", "2"], "images": [encode(1), encode(2)]}
        path = write(tmp_path / "x.parquet", **columns)
        assert unusable(open_rows(path), 0).endswith("no problem: '<image>'")
        blank = BenchmarkSource("mine", path="x", blank_problem="Look.")
        assert [e.problem for e in open_rows(path, blank)] == ["Look.", "Look."]

    def test_columns(self, tmp_path):
        columns = {"q": ["Q?"], "gold": [7], "photo": [encode(7)], "kind": ["numerical"]}
        path = write(tmp_path / "x.parquet", **columns)
        with pytest.raises(ValueError, match="columns.problem: .* has no column 'problem', only"):
            open_rows(path)
        named = BenchmarkColumns("q", "gold", "photo", problem_type="kind")
        (example,) = open_rows(path, BenchmarkSource("m", path="x", columns=named))
        assert (example.problem, example.answer, example.problem_type) == ("Q?", "7", "numerical")
        assert (numbers(example), example.metadata) == ([7], {})

    @pytest.mark.parametrize("options", ["'a' or 'b'", [["a"]], 3.5])
    def test_options_of_another_shape(self, tmp_path, options):
        path = write(tmp_path / "x.parquet", problem=["?"], answer=["1"], images=[encode(1)], options=[options])
        assert "options are" in unusable(open_rows(path), 0)

    def test_no_row_left(self, tmp_path):
        cells = pa.array([[struct(1), struct(2)]], pa.list_(STRUCT))
        path = write(tmp_path / "x.parquet", problem=["?"], answer=["1"], images=cells)
        with pytest.raises(ValueError, match="max_images: benchmark 'mine' has no row with at most 1 images"):
            open_rows(path, max_images=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "a b", "path": "x"}, "name: 'a b' must consist of"),
        ({"name": "a"}, "repo, path: benchmark 'a' needs one of them, got None, None"),
        ({"name": "a", "path": "x", "repo": "o/n"}, "needs one of them"),
        ({"name": "a", "repo": "MMMU"}, "repo: 'MMMU' must be a name on the Hub"),
    ],
)
def test_sources_that_name_no_rows(settings, message):
    with pytest.raises(ValueError, match=message):
        BenchmarkSource(**settings)


def test_suites_that_contradict_themselves():
    one = BenchmarkSource("a", repo="o/n")
    with pytest.raises(ValueError, match=r"names of the benchmarks must differ; repeated: \['a'\]"):
        BenchmarkSuite((one, one))
    with pytest.raises(ValueError, match=r"one data set has one revision; 'o/n' has \['main', 'v1'\]"):
        BenchmarkSuite((one, BenchmarkSource("b", repo="o/n", revision="v1")))
    with pytest.raises(ValueError, match="max_images: 0 must be at least 1"):
        BenchmarkSuite(max_images=0)
    with pytest.raises(ValueError, match=r"validation: there is no benchmark \['b'\], only \['a'\]"):
        BenchmarkSuite((one,), validation=["a", "b"])
    with pytest.raises(FileNotFoundError, match="'nowhere' does not exist"):
        BenchmarkSuite((BenchmarkSource("a", path="nowhere"),)).open()


def test_validation_names_some_of_the_benchmarks():
    sources = tuple(BenchmarkSource(name, path="x") for name in "abc")
    assert BenchmarkSuite(sources).validation is None
    suite = BenchmarkSuite(sources, validation=["c", "a"])
    assert suite.validation == ("c", "a")
    assert suite.choose(["a", "b"]).validation == ("a",)
    assert suite.choose(["b"]).validation == ()
    assert BenchmarkSuite(sources).choose(["b"]).validation is None


class _Collects(LightningModule):
    def __init__(self):
        super().__init__()
        self.seen, self.skipped = [], []

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.seen += [example.key for example in batch.examples]
        self.skipped += batch.skipped


def test_a_batch_without_usable_rows_does_not_end_validation(tmp_path):
    images = [encode(0), None, None, None, encode(4)]
    columns = {"problem": ["?"] * 5, "answer": ["1"] * 5, "images": pa.array(images, pa.binary())}
    write(tmp_path / "x.parquet", **columns)
    sources = (BenchmarkSource("a", path=str(tmp_path / "x.parquet")), BenchmarkSource("b", path=str(tmp_path)))
    data = SelfPlayData(validation_batch_size=2, benchmarks=BenchmarkSuite(sources))
    module = _Collects()
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.validate(module, datamodule=data, verbose=False)
    assert module.seen == [f"{name}/x.parquet:{row}" for name in "ab" for row in (0, 4)]
    assert module.skipped == [f"{name}/x.parquet:{row}" for name in "ab" for row in (1, 2, 3)]


def test_one_row_alone_raises(tmp_path):
    path = write(tmp_path / "x.parquet", problem=["?"] * 2, answer=["1"] * 2, images=[encode(0), None])
    benchmark = Benchmark("mine", open_rows(path))
    assert benchmark[0].key == benchmark[-2].key
    with pytest.raises(UnusableItemError, match="mine/x.parquet:1: no image"):
        benchmark[1]
    with pytest.raises(IndexError):
        benchmark[2]


def test_the_small_world_in_the_same_format(tmp_path):
    write_splits(tmp_path / "tiny.parquet", 6)
    names = ("heldout", "compositional", "hallucination")
    sources = tuple(BenchmarkSource(name, path=str(tmp_path / "tiny.parquet"), part=name) for name in names)
    for benchmark, expected in zip(
        BenchmarkSuite(sources).open(), (heldout(6), compositional(3), hallucination(3)), strict=True
    ):
        for found, original in zip([benchmark[i] for i in range(len(benchmark))], expected, strict=True):
            fields = ("key", "problem", "answer", "problem_type", "image_id")
            assert [getattr(found, name) for name in fields] == [getattr(original, name) for name in fields]
            assert found.image.tobytes() == original.image.tobytes()


def test_questions_without_images(tmp_path):
    table = pa.table({"id": ["a", "b"], "problem": ["2 + 3?", "<image> 2?"], "answer": [5, 2], "level": [1, 2]})
    pq.write_table(table, tmp_path / "sums.parquet")
    columns = BenchmarkColumns(images="")
    (benchmark,) = BenchmarkSuite((BenchmarkSource("sums", path=str(tmp_path), columns=columns),), max_images=1).open()
    assert len(benchmark) == 2
    first = benchmark.examples[0]
    assert (first.key, first.images, first.problem, first.answer) == ("sums/a", (), "2 + 3?", "5")
    assert first.metadata == {"id": "a", "level": "1"}
    with pytest.raises(UnusableItemError, match="the problem names 1 images, the row has 0"):
        benchmark.examples[1]
    with pytest.raises(ValueError, match=r"columns\.images: benchmark 'sums': no images in"):
        BenchmarkSuite((BenchmarkSource("sums", path=str(tmp_path)),)).open()
