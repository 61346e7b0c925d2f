"""Seconds, of parts that take turns and of the stages of a call; memory; and forms measured in fresh processes."""

from __future__ import annotations

import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

K = TypeVar("K")
ROUNDS = 5


class Spread(NamedTuple):
    """Median, minimum and maximum over rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Describe at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def rate(self, work: float) -> Spread:
        """Work over these seconds."""
        return Spread(work / self.median, work / self.high, work / self.low)

    def scaled(self, factor: float) -> Spread:
        """As many times as much."""
        return Spread(*(factor * value for value in self))


def alternate(
    parts: dict[K, Callable[[], object]],
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
    limit: float = math.inf,
) -> dict[K, Spread]:
    """Seconds of each part; they take turns, so that what else the machine does falls on all of them alike.

    Args:
        parts: What is timed.
        rounds: Rounds that count, at least 1, after one that warms up; figures that are kept come from ``ROUNDS``.
        clock: Gives seconds; those of the processor, where one thread works and other processes do too.
        limit: Seconds that all rounds may take; from the second that counts on, none begins that would take longer.

    Raises:
        ValueError: ``rounds`` is below 1.
    """
    if rounds < 1:
        raise ValueError(f"rounds: {rounds} must be at least 1")
    seconds: dict[K, list[float]] = {name: [] for name in parts}
    start = time.perf_counter()
    for counts in range(rounds + 1):
        if counts > 1 and (time.perf_counter() - start) * (counts + 1) / counts > limit:
            break
        for name, part in parts.items():
            elapsed = time_call(part, clock)
            if counts:
                seconds[name].append(elapsed)
    return {name: Spread.of(values) for name, values in seconds.items()}


def time_call(part: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one call, what it gave an accelerator to do included."""
    synchronize()
    start = clock()
    part()
    synchronize()
    return clock() - start


def synchronize() -> None:
    """Wait until an accelerator has done what it was told."""
    if _has_accelerator():
        torch.cuda.synchronize()


@cache
def _has_accelerator() -> bool:
    return torch.cuda.is_available()  # asking takes longer than many of the calls that are timed


class Stages:
    """Seconds by stage; a clock within another stops the outer one, so that the stages add up to the whole.

    Attributes:
        seconds: Of each stage.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = 0.0

    def timed(self, call: Callable[..., Any], stage: str) -> Callable[..., Any]:
        """The call, counted as a stage."""

        def run(*args: Any, **kwargs: Any) -> Any:
            self._turn(stage)
            try:
                return call(*args, **kwargs)
            finally:
                self._turn(None)

        return run

    def watch(self, owner: object, stage: str, *names: str) -> None:
        """Count methods of an object as a stage."""
        for name in names:
            setattr(owner, name, self.timed(getattr(owner, name), stage))

    def _turn(self, stage: str | None) -> None:
        """Enter a stage, or with None leave the innermost one."""
        synchronize()
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._open.append(stage) if stage else self._open.pop()
        self._since = now


def run_apart(module: str, *words: str, ranks: int = 1) -> dict[str, float]:
    """What ``python -m benchmarks.MODULE --alone WORDS`` prints as JSON, in a fresh process, or several ranks of one.

    Raises:
        RuntimeError: It ended early.
    """
    several = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"] if ranks > 1 else []
    line = [sys.executable, "-m", *several, f"benchmarks.{module}", "--alone", *words]
    done = subprocess.run(line, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise RuntimeError(f"{words} ended with {done.returncode} (out of memory?): {done.stderr[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def memory_mib(device: str) -> float:
    """Memory in use; on CUDA the peak is counted from here on."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    return _resident_mib("VmRSS")


def forget_peak(device: str) -> None:
    """Count the peak from here on, where the system can: on CUDA and on Linux."""
    clear = Path("/proc/self/clear_refs")
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif clear.exists():
        clear.write_text("5")


def peak_mib(device: str = "cpu") -> float:
    """Highest memory so far: of tensors on CUDA, else of the process."""
    return torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else _resident_mib("VmHWM")


def _resident_mib(name: str) -> float:
    """A line of this process's status; unlike ``ru_maxrss`` its peak owes nothing to the process that started it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 2**10
