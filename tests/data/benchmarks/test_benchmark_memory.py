"""Memory while a benchmark of thousands of rows is opened and read: it must not grow with the table."""

import json
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data.rows import STRUCT

ROWS = 5000
ROWS_PER_GROUP = 100
MEASURE = """
import re, sys
from pathlib import Path
import pyarrow as pa
from visplay.data import BenchmarkSource, BenchmarkTable, UnusableItemError

pa.set_cpu_count(1)  # how far ahead Arrow reads depends on its threads, and on what else the machine does
pa.set_io_thread_count(1)

def own():
    return int(re.search(r"RssAnon:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

before = own()
table = BenchmarkTable(BenchmarkSource("mine", path=sys.argv[1]), {"x": Path(sys.argv[1])}, max_images=1)
peak, usable = own(), 0
for index in range(len(table)):
    try:
        usable += len(table[index].images)
    except UnusableItemError:
        pass
    peak = max(peak, own()) if index % 50 == 0 else peak
print([usable, peak - before, pa.default_memory_pool().max_memory() / 2**20])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
def test_memory_does_not_grow_with_the_table(tmp_path):
    """The table has 320 MiB, a row group 6; the process grows by 11, and Arrow's buffers, converting, by 71 to 84."""
    noise = np.random.default_rng(0).integers(0, 256, (150, 150, 3), np.uint8)
    buffer = BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    image = {"bytes": buffer.getvalue(), "path": None}
    schema = pa.schema({"problem": pa.string(), "answer": pa.string(), "images": pa.list_(STRUCT)})
    with pq.ParquetWriter(tmp_path / "x.parquet", schema, compression="none", use_dictionary=False) as writer:
        for _ in range(ROWS // ROWS_PER_GROUP):
            cells = [None, *[[image]] * (ROWS_PER_GROUP - 1)]
            texts = ["?"] * ROWS_PER_GROUP
            writer.write_table(pa.table({"problem": texts, "answer": texts, "images": cells}, schema))
    size = (tmp_path / "x.parquet").stat().st_size / 2**20
    assert size > ROWS * len(buffer.getvalue()) * 0.98 / 2**20  # every row has its own bytes
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "PYTHONWARNINGS": "ignore"}
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "x.parquet")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr
    usable, grown, buffers = json.loads(run.stdout)
    assert usable == ROWS * (ROWS_PER_GROUP - 1) // ROWS_PER_GROUP
    assert grown < size / 2
    assert buffers < size / 2
