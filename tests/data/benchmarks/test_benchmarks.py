import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.benchmark_tables import CONFIGS, FILE, numbers, open_rows, read
from data.rows import number, rows
from visplay.commands import prepare
from visplay.data.benchmarks.benchmark import Benchmark
from visplay.data.module import SelfPlayData
from visplay.functional import hallusion_accuracies, mmmu_discipline
from visplay.tiny.data import TinyWorld

# Every usable row of the eight: key, and the numbers that its images tell.
EXPECTED = {
    "mmmu/validation_Art_0": [0],
    "mmmu/validation_Art_1": [10, 11, 12],
    "mmmu/validation_Art_4": [40],
    "mmmu/validation_Art_5": [50, 51],
    "mm_vet/p0": [0],
    "mm_vet/p10": [10],
    "realworldqa/p1": [1],
    "realworldqa/p11": [11],
    "visnumbench/" + FILE + ":0": [0],
    "visnumbench/" + FILE + ":1": [1],
    "visnumbench/" + FILE + ":3": [3],
    "mathverse/test.parquet:2": [2],
    "mathverse/test.parquet:7": [7],
    "mathverse/test.parquet:12": [12],
    "mathvision/p3": [3],
    "mathvision/p8": [8],
    "mathvision/p13": [13],
    "hallusionbench/" + FILE + ":0": [0],
    "hallusionbench/" + FILE + ":2": [2],
    "hallusionbench/" + FILE + ":3": [3],
    "mmstar/100": [0],
    "mmstar/101": [1],
    "mmstar/102": [2, 22],
}
SKIPPED = {
    "mmmu/validation_Art_2": "no image",
    "mmmu/validation_Art_3": "the problem names 2 images, the row has 1",
    "mmmu/validation_Art_6": "image 1 of 1: 40 bytes: ",
    "mm_vet/p5": "no image",
    "realworldqa/p6": "image 1 of 1: text 'iVBORw0KGgo=': ",
    "visnumbench/" + FILE + ":2": "no answer: None",
    "visnumbench/" + FILE + ":4": "no image",
    "visnumbench/" + FILE + ":5": "image 1 of 1: text '5.png': ValueError: neither base64 of an image",
    "hallusionbench/" + FILE + ":1": "no image",
    "mmstar/103": "no image",
}


class TestTheEight:
    def test_every_row_keeps_its_images_and_its_answer(self, suite):
        benchmarks = suite.open()
        found = read(benchmarks)
        assert {key: numbers(example) for key, example in found.items()} == EXPECTED
        for example in found.values():
            assert float(example.answer) == numbers(example)[0], example.key
            assert numbers(example)[0] == number(example.image)
            assert example.image_id == example.key
            assert "<image" not in example.problem

    def test_rows_that_cannot_be_used_are_counted_with_their_reason(self, suite):
        benchmarks = suite.open()
        read(benchmarks)
        skipped = {key: reason for benchmark in benchmarks for key, reason in benchmark.skipped.items()}
        assert skipped.keys() == SKIPPED.keys()
        assert all(skipped[key].startswith(reason) for key, reason in SKIPPED.items())
        assert sum(map(len, benchmarks)) == len(EXPECTED) + len(SKIPPED)

    def test_questions_as_they_are_asked(self, suite):
        found = read(suite.open())
        asked = {
            "mmmu/validation_Art_0": "What is this?",
            "mmmu/validation_Art_1": "Is [image 2] like [image 1] or [image 3]?\nA. the first\nB. the third",
            "mmmu/validation_Art_4": "What is [image 1]?\nA. red\nB. 1/2",
            "mmmu/validation_Art_5": "[image 1][image 2]Which is older?",
            "mathverse/test.parquet:7": "Answer the question in the image.",
            "mmstar/101": "Which, 1?\nOptions: A: red, B: blue",
            "mmstar/102": "[image 1]\nWhich, 2?\nOptions: A: red, B: blue",
        }
        assert {key: found[key].problem for key in asked} == asked

    def test_what_metrics_need_comes_along(self, suite):
        found = read(suite.open())
        first = found["mmmu/validation_Art_1"].metadata
        assert first == {
            "id": "validation_Art_1",
            "question": "Question 1?",
            "img_type": "['Paintings']",
            "topic_difficulty": "Easy",
            "question_type": "multiple-choice",
            "subset_name": "Art",
            "subfield": "Painting",
            "options": '["the first", "the third"]',
        }
        assert mmmu_discipline(first["id"]) == "Art and Design"
        assert "subfield" not in found["mmmu/validation_Art_4"].metadata
        assert found["mm_vet/p10"].metadata == {"problem_id": "p10", "file_name": "mm-vet"}
        assert found["mmstar/101"].metadata == {"index": "101", "options": '["red", "blue"]'}

    def test_hallusionbench_scores_from_its_ids(self, suite):
        rows = read(suite.choose(["hallusionbench"]).open()).values()
        ids = [[row.metadata[name] for name in ("category", "subcategory", "set_id")] for row in rows]
        assert ids == [["VD", "illusion", "0"], ["VD", "illusion", "1"], ["VD", "illusion", "1"]]
        assert {row.metadata["visual_input"] for row in rows} == {"1"}
        pairs = ["/".join([*group, row.metadata["question_id"]]) for group, row in zip(ids, rows, strict=True)]
        figures = ["/".join([*group, row.metadata["figure_id"]]) for group, row in zip(ids, rows, strict=True)]
        scores = hallusion_accuracies([1, 1, 0], pairs, figures)
        assert [round(scores[name].value, 3) for name in ("aAcc", "qAcc", "fAcc")] == [0.667, 0.5, 0.667]

    def test_the_rows_of_the_paper_keep_their_identity(self, prepared, caplog):
        arguments = [*prepared[0], f"--config={CONFIGS / 'paper_protocol.yaml'}"]
        suite = prepare.read_suite([argument.removeprefix("--config=") for argument in arguments])
        with caplog.at_level(logging.INFO, "visplay"):
            benchmarks = suite.open()
        several = {"mmmu/validation_Art_1", "mmmu/validation_Art_5", "mmstar/102"}
        assert read(benchmarks).keys() == EXPECTED.keys() - several
        assert benchmarks[0].keys == tuple(f"mmmu/validation_Art_{n}" for n in (0, 2, 3, 4, 6))
        assert "mmmu: 5 rows, 2 left out, the paper's table has 857" in caplog.text

    def test_validated_by_a_data_module(self, suite, tmp_path):
        data = SelfPlayData(benchmarks=suite)
        assert [loader.benchmark.name for loader in data.test_dataloader()] == [source.name for source in suite.sources]
        assert [loader.benchmark.name for loader in data.val_dataloader()] == ["mmstar"]
        assert data.benchmarks() is data.benchmarks()
        world = TinyWorld(cache=tmp_path / "images", n_images=2, benchmarks=suite, heldout_questions=2)
        world.prepare_data()
        names = [benchmark.name for benchmark in world.benchmarks()]
        assert names == ["heldout", "compositional", "hallucination", *(source.name for source in suite.sources)]


class TestShift:
    def results(self, suite):
        return [
            (benchmark, e.key, e.problem, e.answer) for benchmark in suite.open() for e in read([benchmark]).values()
        ]

    def test_results_of_their_own_rows_pass(self, suite):
        for benchmark, key, problem, answer in self.results(suite):
            benchmark.check(key, problem, answer)

    def test_planted_shift_is_caught(self, suite):
        """Rows dropped first and numbered then: the fault of the released evaluation."""
        mmmu_results = [result for result in self.results(suite) if result[1].startswith("mmmu/")]
        keys = mmmu_results[0][0].keys[: len(mmmu_results)]
        shifted = [(b, key, *texts) for key, (b, _, *texts) in zip(keys, mmmu_results, strict=True)]
        for result in shifted[:2]:
            result[0].check(*result[1:])
        with pytest.raises(ValueError, match=r"validation_Art_2: no image"):
            shifted[2][0].check(*shifted[2][1:])

    def test_another_row_s_gold_is_caught(self, suite):
        visnum = next(b for b in suite.open() if b.name == "visnumbench")
        first, second = list(read([visnum]).values())[:2]
        with pytest.raises(
            ValueError, match=r"answer: benchmark 'visnumbench' has '0.0' in the row .*, got '1.0'; the ro"
        ):
            visnum.check(first.key, first.problem, second.answer)
        with pytest.raises(ValueError, match="problem: .*the rows are shifted"):
            visnum.check(first.key, second.problem, second.answer)
        with pytest.raises(ValueError, match="key: benchmark 'visnumbench' has no row 'visnumbench/9'"):
            visnum.check("visnumbench/9", first.problem, first.answer)

    def test_a_row_inserted_into_the_file_is_caught(self, tmp_path):
        path = tmp_path / "rows.parquet"
        pq.write_table(rows(3), path)
        before = read([Benchmark("mine", open_rows(path))])
        pq.write_table(pa.concat_tables([rows(1, start=9), rows(3)]), path)
        after = Benchmark("mine", open_rows(path))
        with pytest.raises(
            ValueError, match="has 'Question 9\\?' in the row 'mine/rows.parquet:0', got 'Question 0\\?'"
        ):
            after.check("mine/rows.parquet:0", before["mine/rows.parquet:0"].problem, "0")
