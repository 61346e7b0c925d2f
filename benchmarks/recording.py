"""What the record of every sample costs: of a step's time, and on the disk.

    python -m benchmarks.recording

Runs one iteration of configs/tiny.yaml with few held-out questions and times the sink in every step, against the time
from the step's beginning to the sink. Then bytes of a recorded group, and of 1,000 and 100,000 samples, which are
completions with what was parsed, voted and paid; the thumbnails of their images apart.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from visplay import cli
from visplay.callbacks import RolloutSink
from visplay.terminal import Terminal
from visplay.viewing.run_files import STEPS_FILE, THUMBNAILS_FILE


class TimedSink(RolloutSink):
    """Knows how long each step took, and how long the sink took after it."""

    def __init__(self) -> None:
        super().__init__()
        self.shares: list[float] = []
        self._began = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        """Begin to count."""
        self._began = time.perf_counter()

    def on_train_batch_end(self, *arguments: Any) -> None:
        """Record, and note what that took."""
        before = time.perf_counter()
        super().on_train_batch_end(*arguments)
        self.shares.append((time.perf_counter() - before) / (before - self._began))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/tiny.yaml")
    options = parser.parse_args()
    terminal = Terminal()
    with tempfile.TemporaryDirectory() as directory:
        small = ["--self_play.iterations=1", "--data.heldout_questions=8", "--data.heldout_votes=0"]
        sink = {"class_path": "benchmarks.recording.TimedSink"}
        run = cli.run(
            ["fit", f"--config={options.config}", f"--trainer.default_root_dir={directory}", f"--sink={sink}", *small]
        )
        timed = next(each for each in run.trainer.callbacks if isinstance(each, RolloutSink))
        samples = Path(run.trainer.log_dir) / "samples"
        files = [path for path in samples.glob("*.jsonl") if path.name != STEPS_FILE]
        lines = [line for path in files for line in path.read_text("utf-8").splitlines()]
        completions = sum(line.count('"finished"') for line in lines)
        size = sum(path.stat().st_size for path in files)
        pictures = (samples / THUMBNAILS_FILE).stat().st_size
    shares = timed.shares  # type: ignore[attr-defined]
    terminal.print(
        f"of a step's time: median {statistics.median(shares):.2%}, most {max(shares):.2%}, {len(shares)} steps"
    )
    each = size / completions
    terminal.print(f"{completions} samples in {len(lines)} groups: {each:.0f} bytes a sample")
    terminal.print(f"1,000 samples: {1_000 * each / 2**20:.2f} MiB; 100,000: {100_000 * each / 2**20:.1f} MiB")
    terminal.print(f"thumbnails of the images: {pictures / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
