import base64
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data.rows import STRUCT, encode, keys, number, rows, struct, unusable, write
from visplay.data.generated import write_examples
from visplay.data.images.decoding import ImageLimits
from visplay.data.images.image_folder import ImageFolder
from visplay.data.table_collections import Columns, ImageTable, LabelledTable, open_images
from visplay.types import Example


def shapes(directory: Path) -> dict[str, pa.Array]:
    """Three images, 0 to 2, as every shape that a column of images takes."""
    data = [encode(n) for n in range(3)]
    for n in range(3):
        (directory / f"{n}.png").write_bytes(data[n])
    texts = [base64.b64encode(one).decode() for one in data]
    return {
        "struct": pa.array([{"bytes": one, "path": None} for one in data], STRUCT),
        "struct-path": pa.array([{"bytes": None, "path": f"{n}.png"} for n in range(3)], STRUCT),
        "list-of-struct": pa.array([[{"bytes": one, "path": "x"}] for one in data], pa.list_(STRUCT)),
        "bytes": pa.array(data),
        "list-of-bytes": pa.array([[one] for one in data]),
        "base64": pa.array(texts),
        "data-address": pa.array([f"data:image/png;base64,{text}" for text in texts]),
        "list-of-base64": pa.array([[text] for text in texts]),
        "path": pa.array([f"{n}.png" for n in range(3)]),
        "absolute-path": pa.array([[str(directory / f"{n}.png")] for n in range(3)]),
    }


SHAPES = "struct struct-path list-of-struct bytes list-of-bytes base64 data-address list-of-base64 path absolute-path"


@pytest.mark.parametrize("shape", SHAPES.split())
def test_every_shape_of_a_column(tmp_path, shape):
    pq.write_table(rows(3, images=shapes(tmp_path)[shape]), tmp_path / "rows.parquet")
    images, labelled = ImageTable(tmp_path / "rows.parquet"), LabelledTable(tmp_path / "rows.parquet")
    assert [number(item.image) for item in images] == [0, 1, 2]
    assert [number(item.image) for item in labelled] == [0, 1, 2]


class TestImageTable:
    def test_keys_tell_the_row_and_the_image(self, tmp_path):
        cells = [[struct(0)], None, [struct(1), struct(2)], [], [None, struct(3)], [{"bytes": None, "path": None}]]
        images = ImageTable(write(tmp_path / "some.parquet", images=pa.array(cells, pa.list_(STRUCT))))
        assert keys(images) == ["some:0", "some:2#0", "some:2#1", "some:4"]
        assert [number(item.image) for item in images] == [0, 1, 2, 3]

    def test_a_bad_image_moves_nothing(self, tmp_path):
        cells = [encode(n) for n in range(5)]
        good = ImageTable(write(tmp_path / "good" / "x.parquet", image=cells))
        cells[2] = cells[2][:40]
        bad = ImageTable(write(tmp_path / "bad" / "x.parquet", image=cells))
        assert len(bad) == len(good) == 5
        assert unusable(bad, 2).startswith("x:2: 40 bytes: ")
        for index in (0, 1, 3, 4, -1):
            assert bad[index].key == good[index].key == f"x:{index % 5}"
            assert number(bad[index].image) == number(good[index].image) == index % 5

    def test_limits(self, tmp_path):
        images = ImageTable(write(tmp_path / "x.parquet", image=[encode(), encode(size=(30, 40))]))
        assert len(images) == 2
        small = ImageTable(tmp_path / "x.parquet", limits=ImageLimits(max_pixels=1000))
        assert unusable(small, 1).endswith("ValueError: 30x40 pixels; max_pixels is 1000")
        assert small[0].key == "x:0"

    def test_sources_are_told_apart(self, tmp_path):
        for name in ("a.parquet", "b.parquet", "set/train.parquet", "set/test.parquet", "other/0.parquet"):
            write(tmp_path / name, image=[encode()])
        sources = [
            ("a.parquet", "train", "a:0"),
            ("b.parquet", "train", "b:0"),
            ("set", "train", "set:0"),
            ("set", "test", "set@test:0"),
            ("other/*.parquet", "train", "other:0"),
            ("[a].parquet", "train", "[a]:0"),
        ]
        for name, split, key in sources:
            assert keys(ImageTable(tmp_path / name, split)) == [key]

    def test_keys_do_not_depend_on_the_directory_or_the_reading(self, path, tmp_path, monkeypatch):
        expected = keys(ImageTable(path))
        monkeypatch.chdir(tmp_path)
        assert keys(ImageTable("rows.parquet")) == keys(ImageTable("./rows.parquet", None)) == expected

    def test_several_files_are_numbered_on(self, tmp_path):
        for part in (0, 1):
            pq.write_table(rows(2, start=2 * part), tmp_path / f"p{part}.parquet")
        images = ImageTable(tmp_path / "p?.parquet")
        assert keys(images) == ["p?:0", "p?:1", "p?:2", "p?:3"]
        assert [number(item.image) for item in images] == [0, 1, 2, 3]

    def test_column(self, tmp_path):
        source = write(tmp_path / "x.parquet", photo=[encode(1)], img=[encode(2)], id=[3])
        assert number(ImageTable(source)[0].image) == 2
        assert number(ImageTable(source, column="photo")[0].image) == 1
        with pytest.raises(ValueError, match=r"column: no images in '.*x\.parquet': 'image' is none .*\['photo', 'img"):
            ImageTable(source, column="image")
        with pytest.raises(ValueError, match=r"source: .*x\.parquet', column 'id': a column of int64 holds no images"):
            ImageTable(source, column="id")

    def test_no_images_at_all(self, tmp_path):
        with pytest.raises(ValueError, match="column 'image' must hold at least one image, got none"):
            ImageTable(write(tmp_path / "x.parquet", image=pa.array([None, None], pa.binary())))

    def test_no_such_index(self, path):
        for index in (5, -6):
            with pytest.raises(IndexError):
                ImageTable(path)[index]


class TestLabelledTable:
    def test_published_training_set(self, path):
        examples = LabelledTable(path)
        assert len(examples) == 5
        example = examples[3]
        assert number(example.image) == 3
        assert (example.key, example.image_id, example.problem, example.answer) == (
            "rows:3",
            "rows:3",
            "Question 3?",
            "3",
        )
        assert (example.problem_type, example.score, example.votes, example.iteration) == ("", 1.0, (), 0)
        assert ImageTable(path)[3].key == example.image_id

    def test_rows_that_cannot_be_used_move_nothing(self, tmp_path):
        table = rows(10).to_pydict()
        table["problem"][1] = None
        table["problem"][2] = " <image>\n "
        table["answer"][3] = None
        table["answer"][4] = "  "
        table["images"][5] = None
        table["images"][6] = [struct(6), struct(7)]
        table["images"][7] = [{"bytes": encode(7)[:30], "path": None}]
        table["images"][8] = [{"bytes": encode(8, (3, 3)), "path": None}]
        write(tmp_path / "x.parquet", **{**table, "images": pa.array(table["images"], pa.list_(STRUCT))})
        examples = LabelledTable(tmp_path / "x.parquet")
        assert len(examples) == 10
        assert [unusable(examples, index) for index in (1, 2, 3, 4, 5, 6)] == [
            "x:1: no problem: None",
            "x:2: no problem: ' <image>\\n '",
            "x:3: no answer: None",
            "x:4: no answer: '  '",
            "x:5: 0 images; a row must have one",
            "x:6: 2 images; a row must have one",
        ]
        assert unusable(examples, 7).startswith("x:7: 30 bytes: ")
        assert unusable(examples, 8).endswith("3x3 pixels; min_side_pixels is 8")
        for index in (0, 9):
            example = examples[index]
            assert (example.key, example.answer, number(example.image)) == (f"x:{index}", str(index), index)
        assert [examples.key(index) for index in (0, 5, -1)] == ["x:0", "x:5", "x:9"]

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ([3, -4], ["3", "-4"]),
            ([3.0, 0.25], ["3.0", "0.25"]),
            ([True, False], ["True", "False"]),
            ([" B ", "\\frac{1}{2}\n"], ["B", "\\frac{1}{2}"]),
        ],
        ids=["int", "float", "bool", "text"],
    )
    def test_answers_become_text(self, tmp_path, values, expected):
        pq.write_table(rows(2, answer=values), tmp_path / "x.parquet")
        assert [example.answer for example in LabelledTable(tmp_path / "x.parquet")] == expected

    def test_wrapped_answers_are_taken_out_counted_and_said_once(self, tmp_path, caplog):
        answers = ["<answer> 7 </answer>", "#### 7", "\\boxed{B}", "The answer is \\boxed{7}.", "7", None]
        pq.write_table(rows(6, answer=answers), tmp_path / "x.parquet")
        with caplog.at_level("INFO"):
            examples = LabelledTable(tmp_path / "x.parquet")
        assert [examples[index].answer for index in range(5)] == ["7", "7", "B", "7", "7"]
        assert examples.unwrapped == 4
        (said,) = [record.getMessage() for record in caplog.records if "wrapped" in record.getMessage()]
        assert "4 of 6 answers are wrapped, and what is within is taken: '<answer> 7 </answer>' is '7'" in said

    def test_without_images(self, tmp_path):
        table = pa.table({"problem": ["Is 7 odd?", "2 + 3?", ""], "answer": ["yes", "\\boxed{5}", "1"]})
        pq.write_table(table, tmp_path / "rows.parquet")
        labelled = LabelledTable(tmp_path / "rows.parquet", columns=Columns(images=""))
        assert [(each.image, each.problem, each.answer) for each in (labelled[0], labelled[1])] == [
            (None, "Is 7 odd?", "yes"),
            (None, "2 + 3?", "5"),
        ]
        assert unusable(labelled, 2) == "rows:2: no problem: ''"
        with pytest.raises(ValueError, match=r"columns\.images: no images in"):
            LabelledTable(tmp_path / "rows.parquet")

    def test_answers_that_are_none(self, tmp_path):
        pq.write_table(rows(2, answer=[float("nan"), 1.0]), tmp_path / "x.parquet")
        assert unusable(LabelledTable(tmp_path / "x.parquet"), 0) == "x:0: no answer: nan"
        pq.write_table(rows(2, answer=[["a", "b"], ["c"]]), tmp_path / "y.parquet")
        assert unusable(LabelledTable(tmp_path / "y.parquet"), 1) == "y:1: answer is a list, not text or a number"

    def test_placeholders(self, tmp_path):
        problems = ["<image>How many?", "<image>\n\nHow <image> many?", "How many?\n<image>", "Is x<image|>y?"]
        pq.write_table(rows(4, problem=problems), tmp_path / "x.parquet")
        expected = ["How many?", "How many?", "How many?", "Is x<image|>y?"]
        assert [example.problem for example in LabelledTable(tmp_path / "x.parquet")] == expected

    def test_columns(self, tmp_path):
        source = write(tmp_path / "x.parquet", q=["Q?"], gold=[7], photo=[encode(4)], id=[12], kind=["numerical"])
        (example,) = LabelledTable(source, columns=Columns("q", "gold", "photo", "id", "kind"))
        assert (example.key, example.image_id) == ("12", "x:0")
        assert (example.problem, example.answer, example.problem_type) == ("Q?", "7", "numerical")
        assert number(example.image) == 4

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            (Columns(problem="problme"), "columns.problem: .* has no column 'problme', only .* did you mean 'problem'"),
            (Columns(answer="xyz"), r"columns.answer: .* has no column 'xyz', only \['problem', 'answer', 'images'\]$"),
            (Columns(key="id"), "columns.key: .* has no column 'id'"),
            (Columns(problem_type="kind"), "columns.problem_type: .* has no column 'kind'"),
            (Columns(images="image"), "columns.images: no images in .*: 'image' is none of its columns"),
        ],
        ids=["problem", "answer", "key", "problem_type", "images"],
    )
    def test_missing_columns(self, path, columns, message):
        with pytest.raises(ValueError, match=message):
            LabelledTable(path, columns=columns)

    def test_keys_must_differ(self, tmp_path):
        pq.write_table(rows(5, id=["a", "b", "a", "c", "b "]), tmp_path / "x.parquet")
        with pytest.raises(ValueError, match=r"columns.key: 'id' .* in every row; 2 keys are repeated: \['a', 'b'\]"):
            LabelledTable(tmp_path / "x.parquet", columns=Columns(key="id"))
        pq.write_table(rows(4, id=["a", None, " ", "d"]), tmp_path / "y.parquet")
        with pytest.raises(ValueError, match=r"columns.key: 'id' .* is empty in the rows \[1, 2\]"):
            LabelledTable(tmp_path / "y.parquet", columns=Columns(key="id"))

    def test_generated_by_the_released_code(self, tmp_path):
        texts = [base64.b64encode(encode(n)).decode() for n in range(2)]
        table = {"score": [0.5, None], "images": texts, "problem_type": ["numerical", None]}
        pq.write_table(rows(2, **table), tmp_path / "x.parquet")
        first, second = LabelledTable(tmp_path / "x.parquet")
        assert (first.score, first.problem_type, number(first.image)) == (0.5, "numerical", 0)
        assert (second.score, second.problem_type, number(second.image)) == (1.0, "", 1)

    def test_generated_here(self, tmp_path):
        image = Image.new("RGB", (12, 10), (5, 0, 9))
        write_examples(tmp_path / "x.parquet", [Example("a#0", image, "Q?", "4", "numerical", 0.625)])
        (example,) = LabelledTable(tmp_path / "x.parquet", columns=Columns(key="key"))
        assert (example.key, example.problem, example.answer) == ("a#0", "Q?", "4")
        assert (example.problem_type, example.score, number(example.image)) == ("numerical", 0.625, 5)


class TestOpenImages:
    def test_directory_of_images(self, tmp_path):
        (tmp_path / "a.png").write_bytes(encode())
        images = open_images(tmp_path, limits=ImageLimits(max_pixels=500))
        assert isinstance(images, ImageFolder)
        assert images.limits.max_pixels == 500

    def test_tables(self, path, tmp_path):
        datasets.Dataset(rows(2)).save_to_disk(tmp_path / "saved")
        write(tmp_path / "set" / "x" / "0.parquet", photo=[encode(3)])
        assert len(open_images(path)) == 5
        assert len(open_images(str(path.with_name("*.parquet")))) == 5
        assert keys(open_images(tmp_path / "saved")) == ["saved:0", "saved:1"]
        assert keys(open_images(tmp_path / "set", column="photo")) == ["set:0"]

    def test_both(self, path):
        path.with_name("a.png").write_bytes(encode())
        with pytest.raises(
            ValueError, match=r"holds image files \('.*a\.png'\) and tables \('.*rows\.parquet'\); give"
        ):
            open_images(path.parent)

    def test_neither(self, tmp_path):
        with pytest.raises(ValueError, match="must hold at least one usable image"):
            open_images(tmp_path)
        with pytest.raises(FileNotFoundError, match="does not exist; give a"):
            open_images(tmp_path / "nowhere")


def test_text_that_is_not_utf8_costs_its_row(tmp_path):
    broken = pa.array([b"What?", b"caf\xe9?", b"Why?"]).view(pa.string())
    table = LabelledTable(
        write(tmp_path / "x.parquet", **dict(zip(rows(3).column_names, rows(3), strict=True)) | {"problem": broken})
    )
    assert table[0].problem == "What?"
    assert "UnicodeDecodeError" in unusable(table, 1) or "utf-8" in unusable(table, 1)
    assert table[2].problem == "Why?"


@pytest.mark.parametrize("score", [float("nan"), float("inf"), None])
def test_a_score_that_is_no_number_is_none(tmp_path, score):
    table = rows(1).append_column("score", pa.array([score], pa.float64()))
    pq.write_table(table, tmp_path / "x.parquet")
    assert LabelledTable(tmp_path / "x.parquet")[0].score == 1.0
