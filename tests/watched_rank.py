"""Three ranks which wait for each other again and again, and of which one does what is asked; several such cases.

Called with a directory and a port for each of ``CASES``. The ranks are forks of this process, which has imported what
takes long. Each writes its standard error into the directory, and their exit codes are printed as JSON.
"""

import json
import logging
import multiprocessing
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import torch

from visplay.rank_watch import RankWatch
from visplay.terminal import set_up_log

CASES = [(0, "finish"), (0, "raise"), (2, "raise"), (0, "kill"), (1, "kill"), (1, "hang"), (1, "linger")]
"""Which rank does what."""


def misbehave(how: str) -> None:
    """Fail in the given way."""
    if how in ("raise", "linger"):
        raise ValueError("this rank has failed")
    if how == "hang":
        time.sleep(60)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


def be_rank(log: Path, rank: int, port: str, which: int, how: str) -> None:
    """Wait for the others ten times."""
    with log.open("w") as file:
        os.dup2(file.fileno(), 2)
    set_up_log(logging.ERROR)
    trainer = SimpleNamespace(global_rank=rank, world_size=3, strategy=SimpleNamespace(launcher=None))
    with RankWatch(trainer, lambda: "It goes on from there.") as watch:
        torch.distributed.init_process_group(
            "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=3, timeout=timedelta(seconds=30)
        )
        torch.distributed.barrier()
        if how == "linger" and rank == which:
            watch._take_leave = lambda others: time.sleep(4)
        if how == "hang":
            torch.distributed.distributed_c10d._set_pg_timeout(timedelta(seconds=5))
        for number in range(10):
            if number == 5 and rank == which:
                misbehave(how)
            torch.distributed.barrier()
            time.sleep(0.3)
    sys.stderr.write("finished")


def main(directory: Path, ports: list[str]) -> None:
    """Run all cases at once."""
    fork = multiprocessing.get_context("fork")
    started = [
        [fork.Process(target=be_rank, args=(directory / f"{number}-{rank}", rank, port, *case)) for rank in range(3)]
        for number, (case, port) in enumerate(zip(CASES, ports, strict=True))
    ]
    for ranks in started:
        for rank in ranks:
            rank.start()
    for ranks in started:
        for rank in ranks:
            rank.join()
    sys.stdout.write(json.dumps([[rank.exitcode for rank in ranks] for ranks in started]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
