"""Seconds of one whole iteration of the embedded default, a command of its own each time: ``visplay fit``.

Figures: ``seconds``, whole (start, validation before and after, and all), and by stage what the run itself logged;
``rounds``. The stages of the Questioner's phase are its rollouts, the votes on its questions and its updates; those of
the curation, questions and votes on them; those of the Reasoner's phase, rollouts and updates.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.measure import Spread
from benchmarks.results import make_parser, parse, publish

CONFIG = Path(__file__).parents[1] / "configs" / "tiny.yaml"
SUFFIX = "_seconds"


def run_iteration(directory: Path) -> dict[str, float]:
    """Seconds of a run of one iteration into an empty directory."""
    line = [sys.executable, "-m", "visplay", "fit", "--config", str(CONFIG)]
    start = time.perf_counter()
    subprocess.run(
        [*line, "--self_play.iterations=1", f"--trainer.default_root_dir={directory}"],
        check=True,
        capture_output=True,
        cwd=CONFIG.parents[1],
    )
    return {"whole": time.perf_counter() - start} | stage_seconds(directory)


def stage_seconds(directory: Path) -> dict[str, float]:
    """Sums of all that a run logged in seconds.

    Raises:
        FileNotFoundError: The directory has no log.
    """
    logs = sorted(directory.rglob("events.out.tfevents.*"))
    if not logs:
        raise FileNotFoundError(f"{directory}: no TensorBoard log in it")
    sums: dict[str, float] = {}
    for log in logs:
        events = EventAccumulator(str(log), size_guidance={"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            if tag.endswith(SUFFIX):
                name = tag.removesuffix(SUFFIX)
                sums[name] = sums.get(name, 0.0) + sum(event.value for event in events.Scalars(tag))
    return sums


def measure(rounds: int) -> dict[str, Spread]:
    """Seconds by stage over as many runs."""
    runs = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as directory:
            runs.append(run_iteration(Path(directory)))
    return {name: Spread.of([run[name] for run in runs]) for name in runs[0]}


def main() -> None:
    """Measure, print, and record where it is asked for."""
    options = parse(make_parser(__doc__), least_rounds=1)
    figures = {"seconds": measure(options.rounds), "rounds": options.rounds}
    publish("iteration", figures, {}, options)


if __name__ == "__main__":
    main()
