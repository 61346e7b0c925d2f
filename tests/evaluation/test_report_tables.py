import json
from io import StringIO

import pytest
from rich.console import Console

from visplay.evaluation import as_json, as_markdown, as_rich, comparison_table, detail_table, score_table
from visplay.functional import Comparison, Estimate
from visplay.metrics import Report

HALF = Estimate(0.5, 0.25, 0.75, size=8)
ONE = Estimate(1.0, float("nan"), float("nan"), size=1)
REPORTS = {
    "hallusionbench": Report(
        {"rule_accuracy": HALF, "aAcc": HALF, "qAcc": None, "judge_accuracy/glm": HALF},
        {"items": 8, "conflicts": 0, "skipped": 2, "unjudged/glm": 0},
    ),
    "mmmu": Report({"rule_accuracy": ONE, "majority": ONE}, {"items": 1, "conflicts": 0, "skipped": 0, "samples": 4}),
    "macro_average": Report({"rule_accuracy": HALF}, {"items": 9, "conflicts": 0, "benchmarks": 2}),
}


def _show(cells, width=80):
    console = Console(file=StringIO(), width=width)
    console.print(as_rich(cells, "base"))
    return console.file.getvalue()


def test_scores_by_hand():
    assert score_table(REPORTS) == [
        ["benchmark", "items", "skipped", "rule accuracy", "judge accuracy: glm", "majority@4"],
        ["hallusionbench", "8", "2", "50.0 [25.0, 75.0]", "50.0 [25.0, 75.0]", "–"],
        ["mmmu", "1", "0", "100.0 [nan, nan]", "–", "100.0 [nan, nan]"],
        ["macro average", "9", "–", "50.0 [25.0, 75.0]", "–", "–"],
    ]


def test_skipped_rows_have_a_column_where_there_are_any():
    assert score_table({"mmmu": REPORTS["mmmu"]})[0] == ["benchmark", "items", "rule accuracy", "majority@4"]


def test_majorities_of_several_sizes_have_no_size_in_common():
    more = Report({"majority": HALF}, {"items": 8, "samples": 8})
    assert score_table({"mmmu": REPORTS["mmmu"], "mmstar": more})[0][-1] == "majority"


def test_details_by_hand():
    assert detail_table(REPORTS) == [
        ["benchmark", "metric", "value", "of"],
        ["hallusionbench", "aAcc", "50.0 [25.0, 75.0]", "8"],
        ["hallusionbench", "qAcc", "unavailable", "–"],
    ]
    assert len(detail_table({"mmmu": REPORTS["mmmu"]})) == 1


def test_comparisons_by_hand():
    verdicts = Comparison(0.4, 0.8, Estimate(0.4, -0.2, 1.0, 5), 3, 1, 0.625, (), ())
    graded = Comparison(0.5, 0.25, Estimate(-0.25, -0.5, 0.0, 2), None, None, None, (), ())
    found = {
        ("mmmu", "rule_accuracy"): verdicts,
        ("macro_average", "judge_accuracy/glm"): graded,
        ("micro_average", "pass@1"): graded,
    }
    assert comparison_table(found) == [
        ["benchmark", "metric", "items", "before", "after", "difference", "gained / lost", "p"],
        ["mmmu", "rule accuracy", "5", "40.0", "80.0", "+40.0 [-20.0, +100.0]", "3 / 1", "0.625"],
        ["macro average", "judge accuracy: glm", "–", "50.0", "25.0", "-25.0 [-50.0, +0.0]", "–", "–"],
        ["micro average", "pass@1", "2", "50.0", "25.0", "-25.0 [-50.0, +0.0]", "–", "–"],
    ]


def test_markdown():
    assert as_markdown([["a|b", "c"], ["1", "|x|"]]) == "| a\\|b | c |\n|---|---|\n| 1 | \\|x\\| |"


def test_five_columns_fit_a_terminal_and_nothing_is_cut():
    names = ("realworldqa", "hallusionbench", "macro_average")
    widest = Estimate(1.0, 1.0, 1.0, size=3940)
    report = Report(
        {"rule_accuracy": widest, "judge_accuracy/Qwen2.5-VL-72B-Instruct": widest}, {"items": 3940, "skipped": 12}
    )
    cells = score_table(dict.fromkeys(names, report))
    assert len(cells[0]) == 5
    shown = _show(cells)
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    assert shown.count("[100.0,100.0]") == 6
    assert "Qwen2.5-VL-72B-Instruct" in shown
    assert all(name.replace("_", " ") in shown for name in names)


@pytest.mark.parametrize("text", ["[nan, nan]", "[bold]", ":smile:", "[/x]"])
def test_text_is_no_markup(text):
    assert text.replace(", ", ",") in _show([["benchmark", text], ["x", "1"]])
    assert text.replace(", ", ",") in _show([["benchmark", "items"], ["x", text]])


def test_json_has_null_where_there_is_no_value():
    said = json.loads(json.dumps(as_json(REPORTS), allow_nan=False))
    assert said["hallusionbench"]["metrics"]["qAcc"] is None
    assert said["hallusionbench"]["metrics"]["aAcc"] == {"value": 0.5, "low": 0.25, "high": 0.75, "size": 8}
    assert said["mmmu"]["metrics"]["majority"] == {"value": 1.0, "low": None, "high": None, "size": 1}
    assert said["macro_average"]["counts"] == {"items": 9, "conflicts": 0, "benchmarks": 2}


def test_a_name_that_a_data_set_gives_is_text_in_markdown():
    (row,) = as_markdown([["metric"], ["a|<script>\n[x](http://y)\x1b"]]).splitlines()[2:]
    assert row == r"| a\|\<script\> \[x\](http://y)\\x1b |"
