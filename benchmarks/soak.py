"""Trains for a long time, in small steps, and says whether anything of the process grows.

``python -m benchmarks.soak -- --rollout=visplay.callbacks.TransformersRollout``: what follows ``--`` are options of
``visplay fit``; without any, 2,000 steps of the embedded default are taken with vLLM. Both roles learn in turn, so that
the engine takes new weights in every step, and a checkpoint is written every five. Every few steps the run counts what
it has, children included: memory, open files, threads, processes, files.

What grows is judged by a line through one point an iteration (the median of its counts, so that what a phase takes and
gives back is no growth), without the first quarter of them, in which caches fill. It grows if the lower end of the
slope's 95 % interval, times the steps that count, is more than ``LIMITS`` allow. It prints a table and exits with 1
where anything grows; docs/reliability.md has what was measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import psutil
from lightning import Callback, LightningModule, Trainer
from scipy import stats

ROOT = Path(__file__).parents[1]
LIMITS = {  # of growth, in all steps that count
    "memory, KiB": 32 * 1024,
    "open files and sockets": 2,  # what a library opens, or starts, late and once is no growth
    "threads": 2,
    "processes": 1,
    "files in /dev/shm": 1,
    "temporary files": 1,
    "files of the run": 1,
}
BY_DESIGN = (  # what each phase or iteration adds
    "checkpoints/phase-??.ckpt*",
    "generated/*.parquet",
    "generated/*/*",
    "evaluation/*/*",
    "samples/iteration-*",
)
KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "8"}  # one is compiled for each shape of inputs, and 1,024 are kept
VLLM = ["--rollout=visplay.callbacks.VLLMRollout", "--rollout.init_args.engine.cache_gib=0.05"]  # soon filled
ROLES = ("questioner", "reasoner")
SMALL = [
    *("--data.n_images=24", "--data.heldout_questions=4", "--data.heldout_votes=2"),
    *("--self_play.curation.images=8", "--self_play.curation.images_per_batch=8"),
    *("--model.reasoner.voting.votes=2", "--self_play.curation.low=0", "--self_play.curation.high=1"),
    *("--self_play.curation.gates=[]", "--self_play.curation.second_view=null"),
    *("--model.questioner.grpo.max_new_tokens=24", "--model.reasoner.grpo.max_new_tokens=12"),
    *(f"--model.{role}.grpo.prompts_per_step=2" for role in ROLES),
    *(f"--model.{role}.grpo.group_size=2" for role in ROLES),
    *(f"--model.{role}.grpo.learning_rate=1e-6" for role in ROLES),  # both ask and answer as well in the end
    "--step_checkpoint.every_n_steps=5",
]


class Watch(Callback):
    """Writes what the run has, a line of JSON every few steps.

    Args:
        path: The file.
        every_n_steps: Of a phase.
    """

    def __init__(self, path: str, every_n_steps: int = 5) -> None:
        self.path, self.every_n_steps = Path(path), every_n_steps

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have the grader's process there from the beginning, not from the first expression that needs it."""
        pl_module.role.grader(r"\frac{a}{b}", r"a b^{-1}")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Count."""
        phase = pl_module.phase
        if phase.step % self.every_n_steps == 0:
            sample = {"step": trainer.global_step, "iteration": phase.iteration, **count(Path(trainer.log_dir))}
            with self.path.open("a") as file:
                file.write(json.dumps(sample) + "\n")


def count(directory: Path) -> dict[str, float]:
    """What this process and its children have, under the names of ``LIMITS``.

    Args:
        directory: Of the run.
    """
    process = psutil.Process()
    tree = [process, *process.children(recursive=True)]
    memory = [each.memory_info() for each in tree]
    by_design = {path for pattern in BY_DESIGN for path in directory.glob(pattern)}
    found = (
        sum(each.rss - each.shared for each in memory) / 2**10,  # what of files is resident depends on other processes
        sum(each.num_fds() for each in tree),
        sum(each.num_threads() for each in tree),
        len(tree),
        _files(Path("/dev/shm")),
        _files(Path(tempfile.gettempdir())),
        _files(directory) - len(by_design),
    )
    return dict(zip(LIMITS, found, strict=True))


def _files(directory: Path) -> int:
    return sum(not path.is_dir() for path in directory.rglob("*"))


class Growth(NamedTuple):
    """How something went.

    Args:
        first: Median of the first iteration that counts.
        last: Median of the last iteration.
        slope: Per step.
        low: Lower end of its 95 % interval.
        high: Upper end.
        steps: That count.
    """

    first: float
    last: float
    slope: float
    low: float
    high: float
    steps: int


def find_growth(samples: Sequence[Mapping[str, float]], name: str) -> Growth:
    """Ordinary least squares on the iterations' medians, without the first quarter of the iterations.

    Args:
        samples: Of ``Watch``, with ``step`` and ``iteration``.
        name: Of what is looked at.

    Raises:
        ValueError: There are fewer than three iterations to fit a line to.
    """
    parts = [list(part) for _, part in groupby(samples, lambda sample: sample["iteration"])]
    parts = parts[-(-len(parts) // 4) :]
    if len(parts) < 3:
        raise ValueError(f"samples: {len(parts)} iterations after the first quarter; a slope's interval needs 3")
    steps, values = ([median(sample[key] for sample in part) for part in parts] for key in ("step", name))
    centred = np.subtract(steps, np.mean(steps))
    slope = centred @ values / (centred @ centred)
    residuals = np.subtract(values, np.mean(values)) - slope * centred
    freedom = len(parts) - 2
    error = np.sqrt(residuals @ residuals / freedom / (centred @ centred)) * stats.t.ppf(0.975, freedom)
    return Growth(values[0], values[-1], slope, slope - error, slope + error, steps[-1] - steps[0])


def soak(directory: Path, iterations: int, steps: int, every: int, options: Sequence[str]) -> dict[str, Growth]:
    """Train, and say how everything went.

    Args:
        directory: Where the run writes, its temporary files too.
        iterations: Of both roles.
        steps: Of each role in each iteration.
        every: Steps between two counts.
        options: Further options of ``visplay fit``.

    Raises:
        RuntimeError: The run failed.
    """
    temporary, counts = directory / "temporary", directory / "counts.jsonl"
    temporary.mkdir(parents=True)
    line = [
        *(sys.executable, "-m", "visplay", "fit", "--config", str(ROOT / "configs" / "tiny.yaml"), *SMALL),
        *(f"--model.{role}.grpo.steps={steps}" for role in ROLES),
        *(f"--self_play.iterations={iterations}", f"--trainer.default_root_dir={directory}"),
        *("--trainer.callbacks+=benchmarks.soak.Watch", f"--trainer.callbacks.path={counts}"),
        *(f"--trainer.callbacks.every_n_steps={every}", *options),
    ]
    environment = os.environ | KERNELS | {"TMPDIR": str(temporary)}
    with (directory / "log").open("wb") as log:
        ended = subprocess.run(line, cwd=ROOT, stdout=log, stderr=log, env=environment)
    if ended.returncode:
        raise RuntimeError((directory / "log").read_text()[-4000:])
    samples = [json.loads(line) for line in counts.read_text().splitlines()]
    return {name: find_growth(samples, name) for name in LIMITS}


def growing(found: Mapping[str, Growth]) -> list[str]:
    """Names of what grows."""
    return [name for name, growth in found.items() if growth.low * growth.steps > LIMITS[name]]


def format_table(found: Mapping[str, Growth]) -> str:
    """A row for each, in Markdown."""
    rows = ["| | after the warm-up | at the end | per step | 95 % interval | steps |", "|---|---|---|---|---|---|"]
    rows += [
        f"| {name} | {g.first:,.0f} | {g.last:,.0f} | {g.slope:.4f} | {g.low:.4f} … {g.high:.4f} | {g.steps:,.0f} |"
        for name, g in found.items()
    ]
    return "\n".join(rows)


def main() -> None:
    """Train, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--steps", type=int, default=50, help="of each of the two roles in each iteration")
    parser.add_argument("--every", type=int, default=5, help="steps between two counts")
    parser.add_argument("--directory", type=Path, help="that is kept; else a temporary one")
    given = sys.argv[1:]
    end = given.index("--") if "--" in given else len(given)
    options = parser.parse_args(given[:end])
    with tempfile.TemporaryDirectory(prefix="visplay-soak-") as temporary:
        directory = options.directory or Path(temporary)
        found = soak(directory, options.iterations, options.steps, options.every, given[end + 1 :] or VLLM)
    print(format_table(found))
    if names := growing(found):
        sys.exit(f"these grow: {', '.join(names)}")


if __name__ == "__main__":
    main()
