import json
import os
import shutil

import pytest

from visplay.data.manifest import Manifest


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "rows.parquet").write_bytes(b"rows")
    return tmp_path / "run"


def test_content(directory):
    Manifest(directory / "manifest.json").record("iteration-1", directory / "rows.parquet", rows=118, kept=0.4)
    assert json.loads((directory / "manifest.json").read_text()) == {
        "iteration-1": {
            "path": "rows.parquet",
            "sha256": "bc51e9e65d79e1c90ba544ab2eae1044ccdf8c1af7a559ba375cba4276f7d99e",
            "rows": 118,
            "kept": 0.4,
        }
    }


def test_get_is_what_record_returned(directory):
    manifest = Manifest(str(directory / "manifest.json"))
    assert manifest.get("iteration-1") is None
    recorded = manifest.record("iteration-1", str(directory / "rows.parquet"), rows=118)
    assert Manifest(directory / "manifest.json").get("iteration-1") == recorded
    assert recorded["path"] == str(directory / "rows.parquet")
    assert recorded["rows"] == 118


def test_stages_are_kept_and_replaced(directory):
    manifest = Manifest(directory / "manifest.json")
    manifest.record("one", directory / "rows.parquet", rows=1)
    manifest.record("two", directory / "rows.parquet", rows=2)
    manifest.record("one", directory / "rows.parquet", rows=3)
    assert [manifest.get(stage)["rows"] for stage in ("one", "two")] == [3, 2]


def test_file_gone(directory, caplog):
    manifest = Manifest(directory / "manifest.json")
    manifest.record("one", directory / "rows.parquet")
    (directory / "rows.parquet").unlink()
    assert manifest.get("one") is None
    assert "the file of stage 'one' is gone" in caplog.text


def test_file_changed(directory, caplog):
    manifest = Manifest(directory / "manifest.json")
    manifest.record("one", directory / "rows.parquet")
    (directory / "rows.parquet").write_bytes(b"more")
    assert manifest.get("one") is None
    assert "the file of stage 'one' has changed" in caplog.text


def test_run_directory_can_be_moved(directory, tmp_path):
    Manifest(directory / "manifest.json").record("one", directory / "rows.parquet")
    shutil.move(directory, tmp_path / "moved")
    assert Manifest(tmp_path / "moved" / "manifest.json").get("one")["path"] == str(tmp_path / "moved" / "rows.parquet")


def test_file_elsewhere(directory, tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"rows")
    Manifest(directory / "manifest.json").record("one", tmp_path / "elsewhere")
    assert Manifest(directory / "manifest.json").get("one")["path"] == str(tmp_path / "elsewhere")


def test_relative_paths(directory, monkeypatch):
    monkeypatch.chdir(directory)
    Manifest("manifest.json").record("one", "rows.parquet")
    assert Manifest(directory / "manifest.json").get("one")["path"] == str(directory / "rows.parquet")


def test_no_file_to_record(directory):
    with pytest.raises(FileNotFoundError):
        Manifest(directory / "manifest.json").record("one", directory / "nothing")
    assert not (directory / "manifest.json").exists()


def test_reserved_facts(directory):
    with pytest.raises(ValueError, match=r"facts: \['path', 'sha256'\] are the manifest's own"):
        Manifest(directory / "manifest.json").record("one", directory / "rows.parquet", path="x", sha256="y")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"one": 1}', '{"one": {"path": "x"}}', "\udcff"])
def test_damaged(directory, content):
    (directory / "manifest.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"path: .*manifest\.json is not .*; delete it to run every stage again"):
        Manifest(directory / "manifest.json").get("one")


def test_killed_before_it_is_in_place(directory, monkeypatch):
    def fail(*_):
        raise OSError("killed")

    manifest = Manifest(directory / "manifest.json")
    manifest.record("one", directory / "rows.parquet")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="killed"):
            manifest.record("two", directory / "rows.parquet")
    assert sorted(os.listdir(directory)) == ["manifest.json", "rows.parquet"]
    assert manifest.get("one") is not None
    assert manifest.get("two") is None
