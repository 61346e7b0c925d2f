import pytest

from visplay.viewing.run_reader import RunReader, mark_changed, mark_disagreeing
from written_run import write_run


def test_questions_with_votes_and_verdicts(tmp_path):
    rows = list(RunReader(write_run(tmp_path)).asked())
    assert [(row["iteration"], row["image"], row["question"], row["rejected"]) for row in rows] == [
        (1, "a.png", "What is it?", None),
        (1, "b.png", "How many?", "margin/close"),
        (2, "a.png", "What is it?", None),
        (2, "b.png", "How many?", "margin/close"),
    ]
    assert rows[0] | {"votes": [["3", 3], ["4", 1]], "confidence": 0.75, "silver": "3", "own": "3"} == rows[0]
    assert [row["iteration"] for row in RunReader(tmp_path).asked([2, 7])] == [2, 2]


def test_a_verdict_that_changed_and_an_answer_that_is_not_the_questioners(tmp_path):
    rows = list(RunReader(write_run(tmp_path)).asked())
    rows.append(rows[0] | {"image": "c.png"})
    rows.append(rows[0] | {"question": None, "silver": None})
    mark_changed(rows)
    mark_disagreeing(rows)
    assert [row["changed"] for row in rows] == [True, True, True, True, False, False]
    assert [row["disagrees"] for row in rows] == [False, False, True, True, False, False]


def test_a_data_set_that_was_made_again_counts_once(tmp_path):
    directory = write_run(tmp_path)
    manifest = (directory / "manifest.json").read_text()
    (directory / "manifest.json").write_text(manifest.replace('"iteration-1"', '"iteration-2-repeat-1"'))
    (directory / "generated" / "iteration-1").rename(directory / "generated" / "iteration-2-repeat-1")
    reader = RunReader(directory)
    assert [record["stage"] for record in reader.curations.values()] == ["iteration-2-repeat-1"]
    assert [row["silver"] for row in reader.asked()] == ["3", "3"]


def test_a_run_under_way_is_read_as_far_as_it_is(tmp_path):
    directory = write_run(tmp_path)
    for name in ("phases.jsonl", "samples/steps.jsonl"):
        with (directory / name).open("a") as file:
            file.write('{"half": ')
    for name in ("summary.json", "manifest.json"):
        (directory / name).unlink()
    reader = RunReader(directory)
    assert (len(reader.phases), len(reader.steps)) == (4, 8)
    assert (reader.summary, reader.curations, list(reader.asked())) == ([], {}, [])


def test_answers_by_benchmark(tmp_path):
    answers = RunReader(write_run(tmp_path)).answers(2)
    assert [item.greedy.correct for item in answers["heldout"]] == [True, True]
    assert RunReader(tmp_path).answers(1) == {}


def test_the_last_version_is_meant(tmp_path):
    for version in (2, 10, 9):
        write_run(tmp_path / "tiny" / f"version_{version}")
    assert RunReader(tmp_path / "tiny").name == "tiny/version_10"


def test_a_directory_without_a_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"run: '.*nowhere' is not the directory of a run, which has"):
        RunReader(tmp_path / "nowhere")
