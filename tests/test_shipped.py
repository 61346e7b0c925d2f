from pathlib import Path

import pytest

from visplay.shipped import configurations, find_configuration, find_model

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", ["tiny", "lora", "recipes/visplay"])
def test_a_configuration_is_found_by_its_name(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    assert Path(find_configuration(name)) == ROOT / "configs" / f"{name}.yaml"


def test_a_path_that_exists_wins(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "tiny").write_text("{}")
    assert find_configuration("tiny") == "tiny"
    assert find_configuration("~/tiny") == str(tmp_path / "tiny")


def test_the_text_of_a_configuration_is_left_alone():
    assert find_configuration("{self_play: {iterations: 1}}") == "{self_play: {iterations: 1}}"


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("tinny", "did you mean tiny?"),
        ("configs/tinny.yaml", "did you mean tiny?"),
        ("recipes/visplai", "did you mean recipes/visplay?"),
    ],
)
def test_an_unknown_name_names_the_nearest(given, hint):
    with pytest.raises(FileNotFoundError) as raised:
        find_configuration(given)
    assert str(raised.value) == f"config: {given!r} is no file here, and no configuration of the package; {hint}"


def test_a_name_that_is_like_none_is_told_all():
    with pytest.raises(FileNotFoundError, match="; there are benchmarks, digits, fsdp, loggers/mlflow, "):
        find_configuration("9999")
    assert len(configurations()) == len([*(ROOT / "configs").rglob("*.yaml")])


def test_a_model_of_the_package_is_found_from_everywhere(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert find_model("visplay/tiny/base") == "visplay/tiny/base"
    monkeypatch.chdir(tmp_path)
    assert find_model("visplay/tiny/base") == str(ROOT / "visplay/tiny/base")
    assert [find_model(path) for path in ("visplay/nothing", "owner/name", "")] == ["visplay/nothing", "owner/name", ""]
