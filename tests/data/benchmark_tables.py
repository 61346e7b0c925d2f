"""The data sets of the benchmarks as parquet files, with images that tell their number; a stand-in for the Hub.

Every schema holds odd rows; the answer of a usable row tells the number of its first image.
"""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data.rows import STRUCT, encode, number, struct
from visplay.data.benchmarks.benchmark import BenchmarkBatches
from visplay.data.benchmarks.benchmark_sources import BenchmarkSource
from visplay.data.benchmarks.benchmark_table import BenchmarkTable
from visplay.data.benchmarks.downloads import Snapshot
from visplay.data.files import sha256
from visplay.types import Example

FILE = "data/test-00000-of-00001.parquet"

CONFIGS = Path(__file__).parents[2] / "configs"
LISTED = pa.list_(STRUCT)
MISSING = {"bytes": None, "path": None}


def text(number: int) -> str:
    return base64.b64encode(encode(number)).decode()


def mmmu() -> pa.Table:
    """Lists of structs; rows with several images, one without any, one that lacks its second, options as text."""
    return pa.table(
        {
            "id": [f"validation_Art_{n}" for n in range(7)],
            "question": [f"Question {n}?" for n in range(7)],
            "explanation": [""] * 7,
            "img_type": ["['Paintings']"] * 7,
            "topic_difficulty": ["Easy"] * 7,
            "question_type": ["multiple-choice"] * 7,
            "subset_name": ["Art"] * 7,
            "problem": [
                "<image 1>\nWhat is this?",
                "Is <image 2> like <image 1> or <image 3>?",
                "<image 1> What is this?",
                "Is <image 1> like <image 2>?",
                "What is <image 1>?",
                "<image><image>Which is older?",
                "<image 1> What is this?",
            ],
            "answer": ["0", "10", "B", "30", "40", "50", "60"],
            "images": pa.array(
                [
                    [struct(0)],
                    [struct(10), struct(11), struct(12)],
                    None,
                    [struct(30), MISSING],
                    [struct(40), None, None],
                    [struct(50), struct(51)],
                    [{"bytes": encode(60)[:40], "path": None}],
                ],
                LISTED,
            ),
            "options": ["[]", "['the first', 'the third']", "[]", "[]", "['red', '1/2']", None, "[]"],
            "subfield": ["Painting", "Painting", "Design", "Design", None, "Music", "Music"],
        }
    )


def visnumbench() -> pa.Table:
    """Structs, one empty and one with the path of a file that is not there; numbers as answers."""
    images = [*(struct(n) for n in range(4)), MISSING, {"bytes": None, "path": "5.png"}]
    return pa.table(
        {
            "problem": [f"<image>How many, {n}?" for n in range(6)],
            "answer": [0.0, 1.0, None, 3.0, 4.0, 5.0],
            "images": pa.array(images, STRUCT),
        }
    )


def hallusionbench() -> pa.Table:
    """Raw bytes; ids that differ together only: two figures of set 0, and two of set 1, are asked one question."""
    return pa.table(
        {
            "problem": [f"<image>\nIs it so, {n}?" for n in range(4)],
            "answer": ["0", "no", "2", "3"],
            "images": [encode(0), None, encode(2), encode(3)],
            "category": ["VD"] * 4,
            "subcategory": ["illusion"] * 4,
            "visual_input": ["1"] * 4,
            "set_id": [0, 0, 1, 1],
            "figure_id": [1, 2, 1, 2],
            "question_id": [0] * 4,
        }
    )


def mllm_test() -> pa.Table:
    """Base64 text; four benchmarks in turn, and one that is none of the eight; one whose ids repeat."""
    parts = ["mm-vet", "realWorldQA", "mathverse", "mathvision", "clevr_count_70k"]
    problems = [f"<image>Question {n}?" for n in range(15)]
    problems[7] = "<image>"
    images = [[text(n)] for n in range(15)]
    images[5] = []
    images[6] = ["iVBORw0KGgo="]
    return pa.table(
        {
            "problem": problems,
            "answer": [str(n) for n in range(15)],
            "images": images,
            "problem_id": ["same" if parts[n % 5] == "mathverse" else f"p{n}" for n in range(15)],
            "file_name": [parts[n % 5] for n in range(15)],
        }
    )


def mmstar() -> pa.Table:
    """Lists of bytes, one with two images, one with a null alone; whole numbers as ids; options as a mapping."""
    return pa.table(
        {
            "index": [100, 101, 102, 103],
            "problem": [f"<image>\nWhich, {n}?\nOptions: A: red, B: blue" for n in range(4)],
            "answer": ["0", "1", "2", "3"],
            "images": [[encode(0)], [encode(1)], [encode(2), encode(22)], [None]],
            "options": ["{'A': 'red', 'B': 'blue'}"] * 4,
        }
    )


FILES = {
    "zli12321/MMMU": (FILE, mmmu),
    "zli12321/MLLM_test": ("test.parquet", mllm_test),
    "zli12321/visnumbench": (FILE, visnumbench),
    "zli12321/hallusionbench": (FILE, hallusionbench),
    "zli12321/mmstar": (FILE, mmstar),
}


def read(benchmarks) -> dict[str, Example]:
    """Every usable row by its key, in the batches that are evaluated."""
    loaders = [BenchmarkBatches(benchmark, size=2) for benchmark in benchmarks]
    return {example.key: example for loader in loaders for batch in loader for example in batch.examples}


def numbers(example: Example) -> list[int]:
    """What the images of a row tell."""
    return [number(image) for image in example.images]


def open_rows(path: Path, source: BenchmarkSource | None = None, max_images: int | None = None) -> BenchmarkTable:
    """The rows of one file."""
    return BenchmarkTable(source or BenchmarkSource("mine", path=str(path)), {path.name: path}, max_images)


class DirectoryHub:
    """A directory of data sets in place of the Hub; its commit is a counter.

    Attributes:
        fetched: Files that were downloaded, in order.
        asked: Revisions that were looked up, in order.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.commit = 1
        self.fetched: list[str] = []
        self.asked: list[tuple[str, str]] = []
        for repo, (file, make) in FILES.items():
            self.put(repo, file, make())

    def put(self, repo: str, file: str, table: pa.Table) -> None:
        (self.root / repo / file).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, self.root / repo / file)
        (self.root / repo / "README.md").write_text("no table")

    def look_up(self, repo: str, revision: str) -> Snapshot:
        self.asked.append((repo, revision))
        paths = [path for path in (self.root / repo).rglob("*") if path.is_file()]
        files = {path.relative_to(self.root / repo).as_posix(): path for path in paths}
        return Snapshot(
            f"commit-{self.commit}",
            {name: None if name.endswith(".md") else sha256(path) for name, path in files.items()},
        )

    def fetch(self, repo: str, commit: str, file: str, directory: Path) -> Path:
        self.fetched.append(f"{repo}/{file}")
        (directory / file).parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(self.root / repo / file, directory / file))
