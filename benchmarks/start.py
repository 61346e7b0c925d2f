"""Seconds from the start of ``visplay fit`` with the embedded default to its first step, in an empty directory.

Figures: ``seconds``, of the ``processor`` and by the ``clock``; ``modules``, how many are loaded by then; ``rounds``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lightning import Callback

from benchmarks.measure import Spread

ROOT = Path(__file__).parents[1]


class FirstStep(Callback):
    """Prints what a process has used when its first step begins, and ends it."""

    def on_validation_batch_start(self, *_: Any) -> None:
        """Print and end."""
        found = {"processor": sum(os.times()[:4]), "clock": time.time(), "modules": len(sys.modules)}
        print(json.dumps(found), flush=True)
        raise SystemExit

    on_train_batch_start = on_validation_batch_start


def run_start(directory: Path) -> dict[str, float]:
    """What a run into an empty directory has used when its first step begins."""
    line = [sys.executable, "-m", "visplay", "fit", "--config=configs/tiny.yaml"]
    start = time.time()
    done = subprocess.run(
        [*line, f"--trainer.default_root_dir={directory}", "--trainer.callbacks+=benchmarks.start.FirstStep"],
        check=True,
        capture_output=True,
        cwd=ROOT,
        text=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return found | {"clock": found["clock"] - start}


def measure(rounds: int) -> dict[str, Any]:
    """Figures of as many runs, after one that warms up."""
    runs = []
    for _ in range(rounds + 1):
        with tempfile.TemporaryDirectory() as directory:
            runs.append(run_start(Path(directory)))
    seconds = {name: Spread.of([run[name] for run in runs[1:]]) for name in ("processor", "clock")}
    return {"seconds": seconds, "modules": runs[-1]["modules"], "rounds": rounds}


def main() -> None:
    """Measure, print, and record where it is asked for."""
    from benchmarks.results import make_parser, parse, publish  # which the process that is measured does not need

    options = parse(make_parser(__doc__))
    publish("start", measure(options.rounds), {}, options)


if __name__ == "__main__":
    main()
