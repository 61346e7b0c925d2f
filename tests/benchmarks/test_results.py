import json
import platform
import sys

import pytest

from benchmarks.measure import Spread
from benchmarks.results import RESULTS, command, load, make_parser, parse, record, take


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.json"


def test_sections_and_keys_are_merged(path):
    record("step", {"rows": {"ours": Spread(1.0, 0.5, 2.0)}}, {"b": 2.0}, "python -m benchmarks.step --write", path)
    record("head", {"cells": [{"x": 1 / 3, "name": "y"}]}, {"a": 1 / 3}, "python -m benchmarks.head --write", path)
    written = load(path)
    assert list(written) == ["a", "b", "sections"]
    assert list(written["sections"]) == ["head", "step"]
    assert written["a"] == 0.333333
    assert written["sections"]["step"]["figures"] == {"rows": {"ours": {"median": 1.0, "low": 0.5, "high": 2.0}}}
    assert written["sections"]["head"]["figures"] == {"cells": [{"x": 0.333333, "name": "y"}]}
    assert written["sections"]["head"]["command"] == "python -m benchmarks.head --write"
    assert [child.name for child in path.parent.iterdir()] == ["results.json"]


def test_a_section_measured_again_leaves_none_of_its_old_keys(path):
    record("step", {"old": 1}, {"vs_trl": 4.0, "vs_padded": 3.0}, "", path)
    record("head", {}, {"ratio": 0.2}, "", path)
    record("step", {"new": 1}, {"vs_padded": 3.5}, "", path)
    written = load(path)
    assert {name: value for name, value in written.items() if name != "sections"} == {"vs_padded": 3.5, "ratio": 0.2}
    assert written["sections"]["step"]["figures"] == {"new": 1}


def test_what_another_machine_recorded_is_taken_over_with_its_description(path, tmp_path):
    there = tmp_path / "there.json"
    record("gpu", {"x": 1}, {"mfu": 0.5}, "python -m benchmarks.gpu --write", there)
    section = load(there)["sections"]["gpu"] | {"machine": {"accelerator": "a GPU"}}
    there.write_text(json.dumps({"mfu": 0.5, "sections": {"gpu": section}}))
    record("step", {}, {"vs_trl": 4.0}, "", path)
    record("gpu", {"x": 0}, {"mfu": 0.1, "old": 1.0}, "", path)
    take(there, path)
    written = load(path)
    assert {name: value for name, value in written.items() if name != "sections"} == {"mfu": 0.5, "vs_trl": 4.0}
    assert written["sections"].keys() == {"gpu", "step"}
    assert written["sections"]["gpu"] == section
    with pytest.raises(FileNotFoundError):
        take(tmp_path / "none.json", path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_a_number_is_refused_and_the_file_stays(path, value):
    record("step", {}, {"a": 1.0}, "", path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="every number must be finite"):
        record("step", {"x": [value]}, {}, "", path)
    with pytest.raises(ValueError, match="every number must be finite"):
        record("step", {}, {"a": value}, "", path)
    with pytest.raises(ValueError, match="a headline key needs another name"):
        record("step", {}, {"sections": 1.0}, "", path)
    assert path.read_bytes() == before


def test_the_machine_is_described_without_its_name(path):
    record("step", {}, {}, "", path)
    machine = load(path)["sections"]["step"]["machine"]
    assert {"processor", "cores", "threads", "memory_gib", "torch", "transformers"} <= machine.keys()
    assert platform.node() not in json.dumps(machine)


def test_recorded_figures_need_enough_rounds(path, capsys):
    parser = make_parser("")
    assert parse(parser, ["--write"]).write == RESULTS
    assert parse(parser, ["--rounds", "1", "--write", str(path)]).write == path
    assert parse(parser, ["--rounds", "1"]).write is None
    assert parse(parser, ["--rounds", "1", "--write"], least_rounds=1).write == RESULTS
    with pytest.raises(SystemExit):
        parse(parser, ["--rounds", "4", "--write"])
    assert "recorded figures need --rounds 5 or more, got 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--write", "/some/path", "--rounds", "7"], ["--write", "--rounds", "7"], ["--rounds", "7", "--write=/p"]]
)
def test_the_command_says_no_path(words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/some/where/benchmarks/head.py", *words])
    assert command() == "python -m benchmarks.head --rounds 7 --write"
