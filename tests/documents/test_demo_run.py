import tarfile
from pathlib import Path

import pytest

from visplay.viewing.report_data import describe_run
from visplay.viewing.run_reader import RunReader

ARCHIVE = Path(__file__).parents[2] / "docs" / "demo_run.tar.xz"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(directory, filter="data")
    return directory / "demo"


def test_it_is_small():
    assert ARCHIVE.stat().st_size <= 5_000_000


def test_it_can_be_looked_at(run):
    found = describe_run(RunReader(run))
    assert found["story"].startswith("6 phases of 3 iterations took ")
    assert len(found["questions"]["question"]) == 3 * 96 * 2
    assert min(found["questions"]["thumbnail"]) >= 0
    assert len(found["groups"]) == 12
    assert len(found["answers"]) > 160
    assert (run / "report.html").is_file()
    assert list(run.glob("events.out.tfevents.*"))


def test_it_names_no_place_of_a_machine(run):
    for path in run.rglob("*.json*"):
        assert "/home/" not in path.read_text(), path
        assert "/tmp/" not in path.read_text(), path
