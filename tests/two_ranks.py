"""Two processes that are ranks of one group, and what each of them says; and a small run on one rank and on two."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

import visplay
from benchmarks.ranks import SMALL, distance

ROOT = Path(__file__).parent.parent
PATHS = os.pathsep.join([str(Path(visplay.__file__).parents[1]), str(Path(__file__).parent)])
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": PATHS, "HF_HUB_OFFLINE": "1"}


def run_ranks(script: Path, directory: Path, timeout_seconds: float = 600) -> list[Any]:
    """Run a script that calls ``be_rank`` as two ranks; what each of them says. One that hangs fails."""
    command = [sys.executable, str(script), str(directory)]
    environments = [os.environ | ENVIRONMENT | {"VISPLAY_TEST_RANK": str(rank)} for rank in range(2)]
    ranks = [subprocess.Popen(command, env=each, stderr=subprocess.PIPE, text=True) for each in environments]
    try:
        errors = [rank.communicate(timeout=timeout_seconds)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(error[-2000:] for error in errors)
    return [torch.load(directory / f"{rank}.pt", weights_only=False) for rank in range(2)]


def be_rank(speak: Callable[[], Mapping[str, Any]]) -> None:
    """In a script: say what one rank says alone, which rank 0 does, and what both say together."""
    torch.set_num_threads(1)
    directory, rank = sys.argv[1], int(os.environ["VISPLAY_TEST_RANK"])
    alone = speak() if rank == 0 else None
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{directory}/store",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=300),
    )
    torch.save({"alone": alone, "together": speak()}, Path(directory, f"{rank}.pt"))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def assert_close(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """See that weights are those of another run, but for rounding: of all of them 1e-5.

    Of a gradient that is all but rounding AdamW makes a step as of any other, so that a single tensor may be further
    off after several updates; ``test_two_ranks.py`` compares each after one.
    """
    assert distance(state, expected) <= 1e-5


ON_TWO = ["--trainer.strategy=ddp", "--trainer.devices=2"]
SHARDED = [f"--config={ROOT / 'configs/fsdp.yaml'}", "--trainer.devices=2"]


def start(
    command: Sequence[str], environment: Mapping[str, str] = MappingProxyType({}), cwd: Path = ROOT
) -> subprocess.Popen[str]:
    """Start a command whose processes have a thread each, in a process group of its own."""
    return subprocess.Popen(
        command,
        env=os.environ | ENVIRONMENT | environment,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def start_fit(directory: Path, *arguments: str, program: Sequence[str] = ("-m", "visplay")) -> subprocess.Popen[str]:
    """Start the small run; configurations come first among the arguments."""
    command = [sys.executable, *program, "fit", f"--config={ROOT / 'configs/tiny.yaml'}"]
    return start([*command, *arguments, f"--trainer.default_root_dir={directory}"])


def free_port() -> int:
    """A port that nobody has at present."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def kill_all(process: subprocess.Popen[str]) -> None:
    """Kill a run that was started and the ranks that it has started, if any is left."""
    with process, suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


RANKS = {"one": [], "two": ON_TWO, "sharded": SHARDED}


def fit_on_ranks(
    root: Path,
    *arguments: str,
    further: Sequence[str] = (),
    names: Iterable[str] = RANKS,
    timeout_seconds: float = 600,
) -> dict[str, tuple[Path, str]]:
    """Make the small run on one rank, on two, and on two with sharded weights, at once.

    Args:
        root: Where all are written.
        arguments: Of the command, before those of ``SMALL``; configurations first.
        further: Those after them.
        names: Which of ``RANKS``.
        timeout_seconds: A run that takes longer fails.

    Returns:
        The run's directory and what it said on standard output, by name.
    """
    running = {name: start_fit(root / name, *arguments, *SMALL, *further, *RANKS[name]) for name in names}
    try:
        said = {name: process.communicate(timeout=timeout_seconds) for name, process in running.items()}
    finally:
        for process in running.values():
            kill_all(process)
    for name, process in running.items():
        assert process.returncode == 0, said[name][1][-3000:]
    return {name: (root / name / "tiny" / "version_0", out) for name, (out, _) in said.items()}
