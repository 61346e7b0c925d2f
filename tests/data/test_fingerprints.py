"""What identifies data: what changes it, and how much of it is read."""

from types import SimpleNamespace

import pytest

from helpers import plain_image
from visplay.data import fingerprints
from visplay.data.benchmarks.benchmark_sources import BenchmarkSource
from visplay.data.benchmarks.benchmark_suite import BenchmarkSuite
from visplay.data.fingerprints import fingerprint_data, fingerprint_files
from visplay.data.generated import write_examples
from visplay.data.module import SelfPlayData
from visplay.types import Example


@pytest.fixture
def files(tmp_path):
    for name, content in (("a.png", b"one"), ("b/c.png", b"two")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return [tmp_path / "b" / "c.png", tmp_path / "a.png"]


def test_contents_of_few_files(files, tmp_path):
    before = fingerprint_files(files)
    assert (before["files"], before["bytes"], before["of"]) == (2, 6, "names, sizes, contents")
    assert fingerprint_files(reversed(files)) == before
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert fingerprint_files([moved / "a.png", moved / "b" / "c.png"]) == before
    (moved / "a.png").write_bytes(b"owe")
    assert fingerprint_files([moved / "a.png", moved / "b" / "c.png"])["sha256"] != before["sha256"]


def test_names_and_sizes_of_many(files, monkeypatch):
    monkeypatch.setattr(fingerprints, "MOST_READ_BYTES", 5)
    before = fingerprint_files(files)
    assert before["of"] == "names, sizes"
    files[1].write_bytes(b"owe")
    assert fingerprint_files(files) == before
    files[1].write_bytes(b"three")
    assert fingerprint_files(files)["sha256"] != before["sha256"]


def test_every_source(tmp_path):
    (tmp_path / "images").mkdir()
    plain_image(1).save(tmp_path / "images" / "1.png")
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    write_examples(tmp_path / "table.parquet", [Example("g1", plain_image(1), "What is 1?", "1")])
    table = str(tmp_path / "table.parquet")
    data = SelfPlayData(
        tmp_path / "images", table, table, benchmarks=BenchmarkSuite((BenchmarkSource("mine", path=table),))
    )
    data.trainer = SimpleNamespace(limit_val_batches=1)
    data.setup("fit")
    found = fingerprint_data(data)
    assert list(found) == ["images", "labelled", "silver", "benchmark mine"]
    assert found["images"]["files"] == 1  # those that are used
    assert found["labelled"] == found["silver"]
    assert found["benchmark mine"] == {"rows": 1} | found["silver"]
