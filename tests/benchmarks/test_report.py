import re

import pytest

from benchmarks.measure import Spread
from benchmarks.report import PAGE, TARGETS, verdict, write_page
from benchmarks.results import load, record
from benchmarks.tables import SECTIONS, grid, number, written

STEP = {
    "rows": {
        "ours": {"rollout": 3.0, "update": Spread(2.0, 1.5, 2.5), "step": 5.0},
        "TRL": {"rollout": 6.0, "update": 9.0, "step": 15.0},
    },
    "shape": {"model": "20m", "prompts": 4, "P": 276, "G": 8, "T": 64, "dtype": "float32"},
}
CELLS = [
    {"P": p, "T": t, "G": 8, "ours": 1.0, "padded": s, "rounds": 5, "speedup": s, "bound": 4.0, "fraction": s / 4}
    for p, t, s in ((64, 16, 3.5), (64, 512, 1.02), (256, 16, 4.5))
]
SURFACE = {"cells": CELLS, "model": "20m", "dtype": "float32"}


@pytest.fixture
def results(tmp_path):
    path = tmp_path / "results.json"
    keys = {"update_speedup_vs_trl": 4.5, "step_speedup_vs_trl": 2.25, "something_new": 7.0}
    record("step", STEP, keys, "python -m benchmarks.step --write", path)
    record("surface", SURFACE, {}, "python -m benchmarks.surface --write", path)
    return path


@pytest.fixture
def page():
    return "\n".join(f"<!-- {name}: begin -->\n<!-- {name}: end -->" for name in ("headline", *SECTIONS))


def test_the_page_is_as_it_would_be_written_now():
    text = PAGE.read_text()
    assert text == write_page(text, load()), "run python -m benchmarks.report"


def test_the_page_says_what_the_file_has(results, page):
    text = write_page(page, load(results))
    assert "| `update_speedup_vs_trl` | an update, times as fast as TRL's GRPOTrainer | 4.5 | ≥ 4 | yes |" in text
    assert (
        "| `step_speedup_vs_trl` | a whole step, times as fast as TRL's GRPOTrainer | 2.25 | ≥ 2.5 | **no** |" in text
    )
    assert re.search(r"\| `head_memory_ratio` \|[^|]+\|  \| ≤ 0.25 \| not measured \|", text)
    assert "| `something_new` |  | 7 |  |  |" in text
    assert "| ours | 3 | 2 [1.5 … 2.5] | 5 |" in text
    assert "| TRL | 2 | 4.5 | 3 |" in text  # 6 / 3, 9 / 2, 15 / 5
    assert text.count("Not measured.") == len(SECTIONS) - 2
    assert "`python -m benchmarks.surface --write` on " in text


def test_every_section_is_there_without_any_results(page, tmp_path):
    text = write_page(page, load(tmp_path / "none.json"))
    assert text.count("Not measured.") == len(SECTIONS)
    assert text.count("| not measured |") == len(TARGETS)


def test_a_page_without_marks_is_rejected(page):
    with pytest.raises(ValueError, match="<!-- missing: begin -->"):
        written(page, missing="text")


def test_plots_are_drawn_the_same_each_time(results, tmp_path):
    pytest.importorskip("matplotlib")
    from benchmarks.plots import draw

    sections = load(results)["sections"]
    paths = [path for name, section in sections.items() for path in draw(name, section["figures"], tmp_path)]
    assert [path.name for path in paths] == ["step-float32.svg", "surface.svg"]
    drawn = [path.read_bytes() for path in paths]
    for name, section in sections.items():
        draw(name, section["figures"], tmp_path)
    assert drawn == [path.read_bytes() for path in paths]


def test_every_plot_of_the_page_is_there():
    shown = re.findall(r"!\[.*\]\((.+)\)", PAGE.read_text())
    assert sorted(shown) == sorted(f"performance/{path.name}" for path in PAGE.with_suffix("").iterdir())


def test_the_fence_goes_around_what_is_worth_nothing():
    pytest.importorskip("matplotlib")
    import numpy as np
    from matplotlib.figure import Figure

    from benchmarks.plots import fence

    axes = Figure().add_subplot()
    fence(axes, np.array([[1.0, 1.05], [1.0501, np.nan]]))
    edges = {frozenset(map(tuple, line.get_xydata().tolist())) for line in axes.lines}
    corners = [(-0.5, -0.5), (0.5, -0.5), (1.5, -0.5), (1.5, 0.5), (0.5, 0.5), (-0.5, 0.5)]
    assert edges == {frozenset(pair) for pair in zip(corners, corners[1:] + corners[:1], strict=True)}


def test_a_verdict_knows_its_direction():
    assert verdict("≥ 3", 3.0) == verdict("≤ 3", 3.0) == "yes"
    assert verdict("≥ 3", 2.99) == verdict("≤ 3", 3.01) == "**no**"
    assert verdict("", 1.0) == ""
    assert verdict("≥ 3", None) == "not measured"


def test_numbers_and_ragged_tables():
    assert number(0.12345) == "0.123"
    assert number(12345.6) == "12,346"
    assert grid({"x": {"a": 1.0}, "y": {"b": 2.0}}) == "|  | a | b |\n| --- | --- | --- |\n| x | 1 |  |\n| y |  | 2 |\n"
