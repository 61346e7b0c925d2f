"""A rank that is killed, stopped or fails ends the run: soon, with one message, and with a checkpoint to go on from."""

import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from benchmarks.ranks import SMALL
from two_ranks import ON_TWO, ROOT, free_port, kill_all, start, start_fit

pytestmark = pytest.mark.timeout(600)  # two processes, which load all there is
LONG = [
    *(*SMALL, *ON_TWO, "--model.questioner.init_args.grpo.steps=1000", "--trainer.num_sanity_val_steps=0"),
    "--step_checkpoint.init_args.every_n_steps=1",
]
SHORT_LIMIT = ["--trainer.strategy=lightning.pytorch.strategies.DDPStrategy", "--trainer.strategy.timeout=0:00:45"]


@contextmanager
def running(directory: Path, *options: str, checkpoints: int = 2) -> Iterator[list[psutil.Process]]:
    """The ranks of a run that has written so many checkpoints."""
    run = start_fit(directory, *LONG, *options)
    try:
        while len(list(directory.glob("tiny/version_0/checkpoints/*.ckpt"))) < checkpoints:
            assert run.poll() is None, run.stderr.read()[-3000:]
            time.sleep(0.1)
        first = psutil.Process(run.pid)
        (second,) = (child for child in first.children() if "visplay.__main__" in child.cmdline())
        yield [first, second, run]
    finally:
        kill_all(run)


def has_ended(process: psutil.Process) -> bool:
    """Whether a process has ended, though the one that started it may not have heard of it."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def see_all_end(ranks: Sequence, within_seconds: float) -> tuple[list[int], str]:
    """The exit code of the first rank, and what both have written on standard error, once they have ended."""
    first, second, run = ranks
    _, said = run.communicate(timeout=within_seconds)
    _, alive = psutil.wait_procs([second], timeout=10)
    assert not alive
    return run.returncode, said


def checkpoint_named(said: str, directory: Path) -> str:
    """The checkpoint that the one message names, which is the last one that was written."""
    (named,) = re.findall(r"--auto_resume\s+goes on from (\S+\.ckpt)", said)
    written = directory.glob("tiny/version_0/checkpoints/*.ckpt")
    assert named == max(written, key=lambda path: path.stat().st_mtime_ns).name
    return named


@pytest.mark.parametrize("killed", [0, 1])
def test_a_rank_that_is_killed_ends_the_run(tmp_path, killed):
    with running(tmp_path) as ranks:
        ranks[killed].kill()
        code, said = see_all_end(ranks, 60)
    assert code == (-signal.SIGKILL if killed == 0 else 1)
    assert said.count(f"rank {killed}") == said.count("is lost: killed, stopped, or its machine is gone") == 1
    checkpoint_named(said, tmp_path)
    assert "Traceback" not in said


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_rank_that_is_stopped_ends_the_run_at_the_time_limit(tmp_path, stopped):
    with running(tmp_path, *SHORT_LIMIT) as ranks:
        ranks[stopped].suspend()
        try:
            deadline = time.monotonic() + 120
            while not has_ended(ranks[1 - stopped]) and time.monotonic() < deadline:
                time.sleep(0.5)
            assert has_ended(ranks[1 - stopped])
        finally:
            ranks[stopped].kill()
        _, said = see_all_end(ranks, 60)
    assert said.count(f"rank {stopped}") == said.count("is lost: killed, stopped, or its machine is gone") == 1
    checkpoint_named(said, tmp_path)
    assert "Traceback" not in said


@pytest.mark.parametrize("told", [[0], [1], [0, 1]])
def test_a_run_that_is_told_to_end_writes_a_checkpoint(tmp_path, told):
    with running(tmp_path, "--step_checkpoint.init_args.every_n_steps=20", checkpoints=1) as ranks:
        told_at = time.time()
        for number in told:
            ranks[number].terminate()
        code, said = see_all_end(ranks, 60)
    assert code == 128 + signal.SIGTERM
    assert "Traceback" not in said
    assert any(path.stat().st_mtime > told_at for path in tmp_path.glob("tiny/version_0/checkpoints/*.ckpt"))


def test_a_rank_that_fails_ends_the_run_with_its_error(tmp_path):
    once = start_fit(tmp_path, *LONG, program=[str(ROOT / "tests/failing_rank.py")])
    try:
        _, said = once.communicate(timeout=300)
    finally:
        kill_all(once)
    assert once.returncode == 1
    assert said.count("Traceback") == said.count("RuntimeError: the memory of this rank is all used") == 1
    assert said.count("It was rank 1 of 2 that failed; the others end with it.") == 1
    assert checkpoint_named(said, tmp_path) == "phase-00-step-0001.ckpt"


def run_three(which: int, how: str) -> tuple[list[int], str]:
    """The exit codes of three ranks, one of which fails in a way, and what they have said."""
    words = [free_port(), which, how]
    commands = [[sys.executable, str(ROOT / "tests/watched_rank.py"), *map(str, (rank, *words))] for rank in range(3)]
    ranks = [start(command) for command in commands]
    try:
        said = [rank.communicate(timeout=90)[1] for rank in ranks]
    finally:
        for rank in ranks:
            kill_all(rank)
    return [rank.returncode for rank in ranks], "".join(said)


def test_ranks_that_finish_say_nothing():
    codes, said = run_three(0, "finish")
    assert codes == [0, 0, 0]
    assert said == "finished" * 3


@pytest.mark.parametrize("which", [0, 2])
def test_one_of_three_that_raises(which):
    codes, said = run_three(which, "raise")
    assert codes == [1, 1, 1]
    assert said.count("Traceback") == said.count("ValueError: this rank has failed") == 1
    assert f"It was rank {which} of 3 that failed; the others end with it." in said


@pytest.mark.parametrize("which", [0, 1])
def test_one_of_three_that_is_killed(which):
    codes, said = run_three(which, "kill")
    assert codes == [-signal.SIGKILL if rank == which else 1 for rank in range(3)]
    assert said.count("is lost: killed, stopped, or its machine is gone. It goes on from there.") == 1
    assert f"rank {which}, " in said
    assert "Traceback" not in said


def test_one_of_three_that_hangs_is_named_at_the_time_limit():
    codes, said = run_three(1, "hang")
    assert codes == [1, 1, 1]
    assert said.count("Traceback") == said.count("Ranks that the others waited for: [1]") == 1
