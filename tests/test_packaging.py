import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

ROOT = Path(__file__).parent.parent
SOURCES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "configs", "visplay")
BUILD = "import sys; from setuptools.build_meta import *; to = sys.argv[1]; build_wheel(to); build_sdist(to)"
DATA = {path.relative_to(ROOT / "configs").as_posix() for path in (ROOT / "configs").rglob("*.*")}
DATA = {f"visplay/configs/{name}" for name in DATA} | {
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "visplay").rglob("*")
    if path.is_file() and path.suffix != ".pyc"
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The directory of a wheel and an sdist, made from a copy that no build before has left anything in."""
    source, directory = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    subprocess.run([sys.executable, "-c", BUILD, str(directory)], cwd=source, check=True, capture_output=True)
    return directory


@pytest.fixture(scope="module")
def unpacked(built, tmp_path_factory):
    """The files of the wheel, where no checkout is near."""
    directory = tmp_path_factory.mktemp("unpacked")
    (wheel,) = built.glob("*.whl")
    ZipFile(wheel).extractall(directory)
    return directory


def test_wheel_and_sdist_have_every_file(built, unpacked):
    files = {path.relative_to(unpacked).as_posix() for path in (unpacked / "visplay").rglob("*") if path.is_file()}
    assert files == DATA
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    assert files >= {name.replace("visplay/configs/", "configs/") for name in DATA}
    assert not any(name.startswith("tests") for name in files)


def test_an_installed_package_finds_its_configurations_and_its_models_from_everywhere(unpacked, tmp_path):
    code = """
from visplay.cli import instantiate
print(instantiate(["--config", "tiny"]).model.reasoner.vlm.path)
from visplay.__main__ import main
main(["fit", "--config", "tiny", "--config", "recipes/visplay", "--print_config"])
"""
    environment = os.environ | {"PYTHONPATH": str(unpacked)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    model, _, printed = done.stdout.partition("\n")
    assert model == str(unpacked / "visplay/tiny/base")
    config = yaml.safe_load(printed)
    assert config["trainer"]["logger"]["init_args"]["name"] == "tiny"
    assert config["model"]["init_args"]["vlm"]["init_args"]["path"] == "visplay/tiny/base"  # on every machine
    assert config["self_play"]["curation"]["low"] == 0.25  # of recipes/visplay.yaml
