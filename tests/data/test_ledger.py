import json
import os
import shutil

import pytest

from visplay.data.generated import Ledger


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "rows.parquet").write_bytes(b"rows")
    return tmp_path / "run"


def test_content(folder):
    Ledger(folder / "ledger.json").record("iteration-1", folder / "rows.parquet", rows=118, kept=0.4)
    assert json.loads((folder / "ledger.json").read_text()) == {
        "iteration-1": {
            "path": "rows.parquet",
            "sha256": "bc51e9e65d79e1c90ba544ab2eae1044ccdf8c1af7a559ba375cba4276f7d99e",
            "rows": 118,
            "kept": 0.4,
        }
    }


def test_get_is_what_record_returned(folder):
    ledger = Ledger(str(folder / "ledger.json"))
    assert ledger.get("iteration-1") is None
    recorded = ledger.record("iteration-1", str(folder / "rows.parquet"), rows=118)
    assert Ledger(folder / "ledger.json").get("iteration-1") == recorded
    assert recorded["path"] == str(folder / "rows.parquet")
    assert recorded["rows"] == 118


def test_stages_are_kept_and_replaced(folder):
    ledger = Ledger(folder / "ledger.json")
    ledger.record("one", folder / "rows.parquet", rows=1)
    ledger.record("two", folder / "rows.parquet", rows=2)
    ledger.record("one", folder / "rows.parquet", rows=3)
    assert [ledger.get(stage)["rows"] for stage in ("one", "two")] == [3, 2]


def test_file_gone(folder, caplog):
    ledger = Ledger(folder / "ledger.json")
    ledger.record("one", folder / "rows.parquet")
    (folder / "rows.parquet").unlink()
    assert ledger.get("one") is None
    assert "the file of stage 'one' is gone" in caplog.text


def test_file_changed(folder, caplog):
    ledger = Ledger(folder / "ledger.json")
    ledger.record("one", folder / "rows.parquet")
    (folder / "rows.parquet").write_bytes(b"more")
    assert ledger.get("one") is None
    assert "the file of stage 'one' has changed" in caplog.text


def test_run_folder_can_be_moved(folder, tmp_path):
    Ledger(folder / "ledger.json").record("one", folder / "rows.parquet")
    shutil.move(folder, tmp_path / "moved")
    assert Ledger(tmp_path / "moved" / "ledger.json").get("one")["path"] == str(tmp_path / "moved" / "rows.parquet")


def test_file_elsewhere(folder, tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"rows")
    Ledger(folder / "ledger.json").record("one", tmp_path / "elsewhere")
    assert Ledger(folder / "ledger.json").get("one")["path"] == str(tmp_path / "elsewhere")


def test_relative_paths(folder, monkeypatch):
    monkeypatch.chdir(folder)
    Ledger("ledger.json").record("one", "rows.parquet")
    assert Ledger(folder / "ledger.json").get("one")["path"] == str(folder / "rows.parquet")


def test_no_file_to_record(folder):
    with pytest.raises(FileNotFoundError):
        Ledger(folder / "ledger.json").record("one", folder / "nothing")
    assert not (folder / "ledger.json").exists()


def test_reserved_facts(folder):
    with pytest.raises(ValueError, match=r"facts: \['path', 'sha256'\] are the ledger's own"):
        Ledger(folder / "ledger.json").record("one", folder / "rows.parquet", path="x", sha256="y")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"one": 1}', '{"one": {"path": "x"}}', "\udcff"])
def test_damaged(folder, content):
    (folder / "ledger.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"path: .*ledger\.json is not .*; delete it to run every stage again"):
        Ledger(folder / "ledger.json").get("one")


def test_killed_before_it_is_in_place(folder, monkeypatch):
    def fail(*_):
        raise OSError("killed")

    ledger = Ledger(folder / "ledger.json")
    ledger.record("one", folder / "rows.parquet")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="killed"):
            ledger.record("two", folder / "rows.parquet")
    assert sorted(os.listdir(folder)) == ["ledger.json", "rows.parquet"]
    assert ledger.get("one") is not None
    assert ledger.get("two") is None
