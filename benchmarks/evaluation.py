"""What evaluating a row costs besides decoding, making its prompt and generating, and what stays in memory.

Part of ``make bench``; run it alone: ``python -m benchmarks.evaluation``. Rows come from a parquet file through
``BenchmarkTable``, the answers from an engine that writes them at once: boxes after a page of text, one greedy answer
and two samples a row. Most are numbers; one row in 25 needs mathematics to be graded, which costs many times as much.
Lightning's Trainer runs the test with the ``Evaluation`` callback, from opening the file to the tables. A clock within
another stops the outer one; what is left besides the three is overhead: grading, and the rest, which is writing,
metrics with their intervals, and what the trainer does.

Figures: ``seconds`` by stage; ``milliseconds_per_row``, overhead; ``growth_mib``, how much more memory of its own (no
mapped files) the process holds at its peak than after a fifth of the rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lightning import Callback, LightningModule, Trainer
from rich.console import Console

from benchmarks.measure import Stages
from benchmarks.results import make_parser, parse, publish
from visplay.callbacks import Evaluation, RolloutEngine
from visplay.commands.compare import evaluate_models
from visplay.data.benchmarks.benchmark_sources import BenchmarkSource
from visplay.data.benchmarks.benchmark_suite import BenchmarkSuite
from visplay.data.benchmarks.benchmark_table import BenchmarkTable
from visplay.data.generated import PngEncoder
from visplay.data.module import SelfPlayData
from visplay.grading.worker import Grader
from visplay.modules import VLM, GRPOConfig, Qwen2_5_VL, Reasoner
from visplay.modules.answering import Answering
from visplay.tiny import ANSWER, BASE
from visplay.tiny.shapes.shape_scenes import render, sample_scene
from visplay.types import Completion, Prompt, Sampling, derive_seed

BATCH, SAMPLES, IMAGES = 64, 2, 256
_PAGE = "First I look at the image, and then I think about what is asked. " * 30


class Instant(RolloutEngine):
    """Answers at once: numbers, and in one row of 25 an expression."""

    def load_weights(self, policy: VLM) -> None:
        """There is nothing to load."""

    def sample(self, policy: VLM, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Every third answer is wrong."""
        return [[_answer(prompt.key, sample) for sample in range(sampling.n)] for prompt in prompts]


class Memory(Callback):
    """Notes what the process holds after every batch.

    Attributes:
        mebibytes: Resident memory of its own.
    """

    def __init__(self) -> None:
        self.mebibytes: list[float] = []

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Note it."""
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
        self.mebibytes.append(int(line.split()[1]) / 1024)


def measure(rows: int) -> dict[str, Any]:
    """Evaluate so many rows.

    Args:
        rows: Number of rows, at least ten batches of them.
    """
    stages, memory = Stages(), Memory()
    with tempfile.TemporaryDirectory() as directory:
        write_rows(Path(directory, "rows.parquet"), rows)
        evaluation = Evaluation(f"{directory}/evaluation", Answering(samples=SAMPLES))
        evaluation.console = Console(quiet=True)
        trainer = Trainer(
            accelerator="cpu",
            callbacks=[Instant(), evaluation, memory],
            logger=False,
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        reasoner = Reasoner(GRPOConfig(max_new_tokens=64), ANSWER, vlm=Qwen2_5_VL(str(BASE)))
        suite = BenchmarkSuite((BenchmarkSource("rows", path=f"{directory}/rows.parquet"),))
        data = SelfPlayData(validation_batch_size=BATCH, benchmarks=suite)
        timed = {
            (BenchmarkTable, "__getitem__"): "decoding",
            (Reasoner, "prompts"): "prompts",
            (Instant, "generate_each"): "generation",
            (Grader, "__call__"): "grading",
            (Trainer, "test"): "rest",
        }
        for (owner, name), stage in timed.items():
            patch.object(owner, name, stages.timed(getattr(owner, name), stage)).start()
        try:
            evaluate_models(trainer, reasoner, data)
        finally:
            patch.stopall()
        written = sum(
            len(path.read_bytes().splitlines()) for path in evaluation.store.directory.glob("rows-rank*.jsonl")
        )
    assert written == rows
    held = memory.mebibytes
    return {
        "rows": rows,
        "seconds": dict(stages.seconds),
        "milliseconds_per_row": 1000 * (stages.seconds["grading"] + stages.seconds["rest"]) / rows,
        "growth_mib": max(held[len(held) // 5 :]) - held[len(held) // 5],
    }


def write_rows(path: Path, rows: int) -> None:
    """Questions about images of the small world; the answers are those of ``Instant``, but for every third."""
    encode = PngEncoder()
    scenes = [np.random.default_rng(derive_seed("evaluation", n)) for n in range(IMAGES)]
    images = [encode(render(sample_scene(rng, held_out=False), rng)) for rng in scenes]
    columns = {
        "id": [str(row) for row in range(rows)],
        "problem": [f"How many are there in row {row}?" for row in range(rows)],
        "answer": [_gold(row) for row in range(rows)],
        "images": [[{"bytes": images[row % IMAGES], "path": None}] for row in range(rows)],
    }
    pq.write_table(pa.table(columns), path, row_group_size=100)


def _gold(row: int) -> str:
    return rf"\frac{{{row}}}{{7}} + x" if row % 25 == 0 else str(row)


def _answer(key: str, sample: int) -> Completion:
    row = int(key.rpartition("/")[2])
    wrong = (row + sample) % 3 == 0
    said = f"x + {row + wrong}/7" if row % 25 == 0 else str(row + wrong)
    return Completion((5, 6), (-1.0, -1.0), f"<think>{_PAGE}</think>\\boxed{{{said}}}", finished=True)


def main() -> None:
    """Measure, print, and record where asked to."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    options = parse(parser)
    figures = measure(options.rows)
    keys = {"evaluation_ms_per_row": figures["milliseconds_per_row"], "evaluation_growth_mib": figures["growth_mib"]}
    publish("evaluation", figures, keys, options)


if __name__ == "__main__":
    main()
