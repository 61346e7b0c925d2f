import json
import os
import re
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.zoo import ZOO, build_zoo
from visplay.data.images.image_folder import ImageFolder, UnusableItemError
from visplay.data.table_collections import ImageTable

LOADED = {specimen.key: specimen.size for specimen in ZOO if specimen.size}
SKIPPED = {specimen.name: specimen.reason for specimen in ZOO if specimen.reason}
IN_TABLE = [specimen for specimen in ZOO if specimen.in_table]

MEASURE = """
import json, sys
from visplay.data.images.image_folder import ImageFolder, UnusableItemError
from visplay.data.table_collections import ImageTable

def read_mebibytes(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(name + ":"))

def measure(load):
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")
    before = read_mebibytes("VmRSS")
    count = load()
    return count, read_mebibytes("VmHWM") - before

def load_all(items):
    count = 0
    for index in range(len(items)):
        try:
            count += items[index].image.mode == "RGB"
        except UnusableItemError:
            pass
    return count

print(json.dumps([
    measure(lambda: load_all(ImageFolder(sys.argv[1]))),
    measure(lambda: load_all(ImageTable(sys.argv[2]))),
]))
"""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    return build_zoo(tmp_path_factory.mktemp("animals"))


@pytest.fixture(scope="module")
def images(zoo):
    return ImageFolder(zoo)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def table(zoo, tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "zoo.parquet"
    cells = [(zoo / specimen.key).read_bytes() for specimen in IN_TABLE]
    pq.write_table(pa.table({"image": cells}), path)
    return path


def test_forty():
    assert len(ZOO) == 40
    assert len({specimen.key for specimen in ZOO}) == 40


class TestDirectory:
    def test_loaded_and_skipped(self, images):
        assert images.keys == tuple(sorted(LOADED))
        assert [item.path for item in images.skipped] == sorted(SKIPPED)

    @pytest.mark.parametrize("specimen", [specimen for specimen in ZOO if specimen.reason], ids=lambda it: it.name)
    def test_reason(self, images, specimen):
        (reason,) = [item.reason for item in images.skipped if item.path == specimen.name]
        assert re.search(specimen.reason, reason)

    def test_every_good_one_is_upright_rgb(self, images):
        assert {item.key: (item.image.mode, item.image.size) for item in images} == {
            key: ("RGB", size) for key, size in LOADED.items()
        }


class TestTable:
    def test_same_fates(self, table, cache, monkeypatch):
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
        images = ImageTable(table)
        assert len(images) == len(IN_TABLE)
        for index, specimen in enumerate(IN_TABLE):
            if specimen.size:
                assert images[index].key == f"zoo:{index}"
                assert (images[index].image.mode, images[index].image.size) == ("RGB", specimen.size)
            else:
                with pytest.raises(UnusableItemError) as caught:
                    images[index]
                assert caught.value.key == f"zoo:{index}"
                assert re.search(specimen.reason.replace("^", r"^\d+ bytes: "), caught.value.reason)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
def test_memory_is_bounded(zoo, table, cache):
    """The largest legal image, 2^26 pixels, takes 64 MiB as grey and 256 MiB as RGB, together 320 MiB.

    Large images are decoded one at a time, so threads do not add to it; 64 MiB are left for everything else. The
    bombs would take 10 GiB and 512 MiB. The peak is the kernel's for the process (VmHWM, set back before each load):
    ru_maxrss of a child starts with the parent's.
    """
    environment = {**os.environ, "HF_DATASETS_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, zoo, table], env=environment, capture_output=True, text=True, timeout=200
    )
    assert run.returncode == 0, run.stderr
    (loaded, directory_mebibytes), (rows, table_mebibytes) = json.loads(run.stdout)
    assert loaded == len(LOADED)
    assert rows == sum(specimen.size is not None for specimen in IN_TABLE)
    assert directory_mebibytes < 320 + 64
    assert table_mebibytes < 320 + 64
