import json

from visplay.viewing.report_data import describe_run, tell_story
from visplay.viewing.run_reader import RunReader
from written_run import HOSTILE, write_run


def test_the_story_is_made_of_figures(tmp_path):
    assert tell_story(RunReader(write_run(tmp_path))) == (
        "4 phases of 2 iterations took 2 min. Heldout sampled: 50.0 % before, 70.0 % after iteration 2 (best: "
        "75.0 % after iteration 1). Of 4 questions asked for the data sets 2 were kept, 50.0 %. Of the silver answers "
        "kept 80.0 % are right by the estimate that needs no labels. By the truth, which is known here, 85.0 % are. "
        "The run finished; it was continued once."
    )


def test_curves_and_what_became_of_questions(tmp_path):
    found = describe_run(RunReader(write_run(tmp_path)))
    curves = {curve["title"]: curve["lines"] for curve in found["curves"]}
    assert curves["Scores by iteration (0 is the base)"] == [
        {"name": "Heldout sampled", "points": [[0, 0.5], [1, 0.75], [2, 0.7]]}
    ]
    assert curves["Reward of each step"][1] == {
        "name": "reasoner",
        "points": [[1, 0.1], [2, 0.2], [3, 0.1], [4, 0.2]],
    }
    assert found["reasons"][0] == {"iteration": 1, "parts": {"kept": 1, "margin/close": 1}}
    assert found["phases"][3]["decision"] == "repeat"


def test_questions_have_their_thumbnails(tmp_path):
    found = describe_run(RunReader(write_run(tmp_path)))
    assert found["questions"]["question"] == ["What is it?", "How many?"] * 2
    assert found["questions"]["thumbnail"] == [0, 1, 0, 1]
    assert (len(found["images"]), found["groups"][0]["thumbnail"]) == (2, 0)
    assert [item["thumbnail"] for item in found["answers"]] == [0, -1]
    assert describe_run(RunReader(tmp_path), most_image_bytes=0)["questions"]["thumbnail"] == [-1] * 4


def test_answers_side_by_side(tmp_path):
    item = describe_run(RunReader(write_run(tmp_path)))["answers"][0]
    assert (item["base"]["right"], item["evolved"]["right"]) == (False, True)
    assert item["evolved"]["samples_right"] == [1, 2]


def test_of_very_many_questions_some_are_left_out_evenly(tmp_path):
    found = describe_run(RunReader(write_run(tmp_path, questions=50)), most_questions=10)
    assert found["left_out"] == 90
    assert found["questions"]["iteration"] == [1] * 5 + [2] * 5


def test_one_iteration(tmp_path):
    found = describe_run(RunReader(write_run(tmp_path)), iterations=[2])
    assert set(found["questions"]["iteration"]) == {2}
    assert found["groups"] == []


def test_health_says_what_went_otherwise(tmp_path):
    assert describe_run(RunReader(write_run(tmp_path)))["health"] == [
        "The process that began at 2026-01-01T00:00:00+00:00 ended: killed.",
        "Settings changed at 2026-01-01T01:00:00+00:00: rollout.max_sequences from 64 to 128.",
        "Iteration 2, reasoner: the advance rule said 'repeat'.",
        "Log-probabilities of engine and trainer differed by at most 2.0e-06 nats on a token, over 8 steps.",
    ]


def test_texts_are_cut_and_control_characters_are_visible(tmp_path):
    found = describe_run(RunReader(write_run(tmp_path, HOSTILE + "x" * 10_000_000)))
    text = json.dumps(found, ensure_ascii=False)
    assert len(text) < 40_000
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\x1b[31mred" in found["questions"]["question"][1]
    assert found["questions"]["question"][1].endswith(f"… {len(HOSTILE) + 10_000_000} characters")


def test_a_run_that_has_only_begun(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"processes": [{"started_at": "now", "exit": None}]}))
    found = describe_run(RunReader(tmp_path))
    assert found["story"] == "0 phases of 0 iterations took 0 s. The run is under way."
    assert (found["questions"], found["curves"], found["answers"]) == ({}, [], [])
