"""The runs of a study: ordinary ``visplay fit`` processes, several at a time, each continued where it was killed."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from examples.study.plan import Arm, Study

logger = logging.getLogger(__name__)

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
"""One thread a run: as many runs as cores take less time than one run on all cores, and add up in one order."""


def is_finished(study: Study, arm: Arm, seed: int) -> bool:
    """Whether the run is over, and was made by the very command that the study gives now."""
    path = study.version(arm, seed) / "run.json"
    if not path.is_file():
        return False
    last = json.loads(path.read_bytes())["processes"][-1]
    return last["exit"] == "finished" and last["command"][1:] == study.command(arm, seed)


def run_all(study: Study, jobs: int) -> list[str]:
    """Run what is not finished, seed by seed, so that an unfinished study has all arms of its first seeds.

    Args:
        study: What to run.
        jobs: Runs at a time.

    Returns:
        Why runs failed; none of them keeps the others from being run.
    """
    waiting = [(arm, seed) for seed in study.seeds for arm in study.arms if not is_finished(study, arm, seed)]
    processes: list[subprocess.Popen] = []
    logger.info("%d of %d runs are to be done", len(waiting), len(study.seeds) * len(study.arms))
    pool = ThreadPoolExecutor(jobs)
    try:
        failures = pool.map(lambda run: _run(study, *run, processes), waiting)
        return [failure for failure in failures if failure is not None]
    finally:  # interrupted, it leaves no process behind; each goes on from its last checkpoint
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()


def _run(study: Study, arm: Arm, seed: int, processes: list[subprocess.Popen]) -> str | None:
    """Run one; why it failed, or None."""
    root, began = study.root(arm, seed), time.perf_counter()
    root.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join([str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": path}
    command = [sys.executable, "-m", "visplay", *study.command(arm, seed)]
    log = root / "log.txt"
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        processes.append(process)
        code = process.wait()
    if code:
        return f"{arm.name}, seed {seed}: exit status {code}: {log}: {_last_line(log)}"
    logger.info("%s, seed %d: %.0f s", arm.name, seed, time.perf_counter() - began)
    return None


def _last_line(path: Path) -> str:
    lines: Sequence[str] = path.read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "")
