import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "device.sh"
WHEELS = [
    line.split("==")[0]
    for line in (ROOT / "benchmarks/device/wheels.txt").read_text().splitlines()
    if not line.startswith("#")
]
FETCHES = """#!/bin/sh
while [ "$1" != -d ]; do shift; done
for name in a b; do echo > "$2/$name-1.0-py3-none-any.whl"; done
"""
needs_git = pytest.mark.skipif(not (ROOT / ".git").exists() or shutil.which("git") is None, reason="no checkout")


def _prepare(tmp_path, **variables):
    """Run the script with a Python that fetches two wheels from nowhere."""
    python = tmp_path / "python"
    python.write_text(FETCHES)
    python.chmod(0o755)
    variables |= {"PYTHON": str(python), "BUILD": str(tmp_path / "build")}
    return subprocess.run(["bash", SCRIPT], env=os.environ | variables, capture_output=True, text=True)


@needs_git
def test_the_archive_has_the_checkout_and_the_wheels_and_the_command_is_one_that_bash_reads(tmp_path):
    done = _prepare(tmp_path)
    assert done.returncode == 0, done.stderr
    archive = tmp_path / "build" / "device.tar.gz"
    assert archive.stat().st_size < 64 * 2**20
    with tarfile.open(archive) as opened:
        names = set(opened.getnames())
    wheels = {f"visplay-device/wheels/{name}-1.0-py3-none-any.whl" for name in "ab"}
    files = ("benchmarks/device.sh", "tests/modules/policy/test_devices.py", "visplay/tiny/base/model.safetensors")
    assert wheels | {f"visplay-device/checkout/{name}" for name in files} <= names
    assert not [name for name in names if "/.venv" in name or "/.git/" in name or "/runs/" in name]
    command = done.stdout.splitlines()[-1]
    assert "timeout -k 10 480 bash" in command
    assert not subprocess.run(["bash", "-n", "-c", command]).returncode


@needs_git
def test_an_archive_that_cannot_be_brought_is_rejected(tmp_path):
    done = _prepare(tmp_path, MOST_MIB="8")
    assert done.returncode == 1
    assert re.search(r"device\.tar\.gz: \d+ MiB, and fewer than 8 can be brought", done.stderr)


def test_there_wheels_are_installed_without_an_index_and_further_words_are_the_benchmark_s(tmp_path):
    script = tmp_path / "visplay-device" / "checkout" / "benchmarks" / "device.sh"
    script.parent.mkdir(parents=True)
    shutil.copy(SCRIPT, script)
    wheels = tmp_path / "visplay-device" / "wheels"
    wheels.mkdir()
    (wheels / "a.whl").touch()
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\necho "$PYTHONPATH: $*"\nif [ $2 != pip ]; then exit 3; fi\n')
    python.chmod(0o755)
    variables = os.environ | {"PATH": f"{python.parent}:{os.environ['PATH']}", "PYTHONPATH": ""}
    line = ["bash", script, "run", "results", "--model", "20m"]
    done = subprocess.run(line, env=variables, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr  # of the benchmark
    pip, benchmark = done.stdout.splitlines()
    assert "pip install -q --no-index --no-deps" in pip
    assert pip.endswith("/wheels/a.whl")
    out = tmp_path / "results"
    assert re.match(rf".*/checkout:.*/site: -m benchmarks\.gpu --tests --seconds 430 --write {out}", benchmark)
    assert benchmark.endswith("results.json --model 20m")
    assert (out / "gpu.log").read_text() == f"{benchmark}\n"


def test_bash_reads_the_script_and_it_rejects_what_it_does_not_know():
    assert not subprocess.run(["bash", "-n", SCRIPT]).returncode
    for words, message in ((["measure"], "measure: no mode"), (["run"], "run: give the directory of the results")):
        done = subprocess.run(["bash", SCRIPT, *words], capture_output=True, text=True)
        assert done.returncode == 2
        assert message in done.stderr


def test_what_the_machine_has_is_not_brought_and_nothing_that_visplay_needs_is_missing():
    there = re.findall(r"^([A-Za-z0-9-]+)", (ROOT / "benchmarks/device/machine.txt").read_text(), re.M)
    names = {name.lower().replace("_", "-") for name in there}
    brought = {name.lower().replace("_", "-") for name in WHEELS}
    assert not names & brought
    needed = re.search(r"install_requires=\[(.*?)\n    \]", (ROOT / "setup.py").read_text(), re.S).group(1)
    assert set(re.findall(r'"([A-Za-z0-9-]+)', needed)) <= names | brought | {"imagehash"}
