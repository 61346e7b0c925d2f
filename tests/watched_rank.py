"""One of three ranks, which wait for each other again and again, and of which one does what is asked."""

import logging
import os
import signal
import sys
import time
from datetime import timedelta
from types import SimpleNamespace

import torch

from visplay.rank_watch import RankWatch
from visplay.terminal import set_up_log


def misbehave(how: str) -> None:
    """Fail in the given way."""
    if how == "raise":
        raise ValueError("this rank has failed")
    if how == "hang":
        time.sleep(60)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


def main(rank: int, port: str, which: int, how: str) -> None:
    """Wait for the others ten times."""
    set_up_log(logging.ERROR)
    trainer = SimpleNamespace(global_rank=rank, world_size=3, strategy=SimpleNamespace(launcher=None))
    with RankWatch(trainer, lambda: "It goes on from there."):
        torch.distributed.init_process_group(
            "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=3, timeout=timedelta(seconds=30)
        )
        torch.distributed.barrier()
        if how == "hang":
            torch.distributed.distributed_c10d._set_pg_timeout(timedelta(seconds=5))
        for number in range(10):
            if number == 5 and rank == which:
                misbehave(how)
            torch.distributed.barrier()
            time.sleep(0.3)
    sys.stderr.write("finished")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4])
