"""A rank that is killed, stopped or fails ends the run: soon, with one message, and with a checkpoint to go on from."""

import json
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.ranks import SMALL
from two_ranks import ON_TWO, ROOT, free_port, kill_all, start, start_fit
from watched_rank import CASES

pytestmark = pytest.mark.timeout(600)  # two processes, which load all there is
LONG = [
    *(*SMALL, *ON_TWO, "--trainer.num_sanity_val_steps=0", "--step_checkpoint.init_args.every_n_steps=1"),
    *(f"--model.questioner.init_args.grpo.{name}" for name in ("steps=1000", "prompts_per_step=2", "group_size=2")),
    "--model.reasoner.init_args.voting.votes=2",
]
LIMIT = ["--trainer.strategy=lightning.pytorch.strategies.DDPStrategy", "--trainer.strategy.timeout=0:10:00"]
"""What impatient_rank.py shortens."""


@contextmanager
def running(directory: Path, *options: str, checkpoints: int = 2, **start: Any) -> Iterator[list[psutil.Process]]:
    """The ranks of a run that has written so many checkpoints."""
    run = start_fit(directory, *LONG, *options, **start)
    try:
        while len(list(directory.glob("tiny/version_0/checkpoints/*.ckpt"))) < checkpoints:
            assert run.poll() is None, run.stderr.read()[-3000:]
            time.sleep(0.1)
        first = psutil.Process(run.pid)
        (second,) = (child for child in first.children() if "fit" in child.cmdline())
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


def stop(directory: Path, stopped: int) -> tuple[str, Path]:
    """What a run says that ends because a rank of it is stopped, and its directory."""
    with running(directory, *LIMIT, program=[str(ROOT / "tests/impatient_rank.py")]) as ranks:
        ranks[stopped].suspend()
        try:
            deadline = time.monotonic() + 120
            while not has_ended(ranks[1 - stopped]) and time.monotonic() < deadline:
                time.sleep(0.5)
            assert has_ended(ranks[1 - stopped])
        finally:
            ranks[stopped].kill()
        _, said = see_all_end(ranks, 60)
    return said, directory


@pytest.fixture(scope="module")
def stopped_runs(tmp_path_factory):
    """A run with its first rank stopped and one with its second; they wait for the time limit at once."""
    directories = [tmp_path_factory.mktemp("stopped") for _ in range(2)]
    with ThreadPoolExecutor() as pool:
        return list(pool.map(stop, directories, range(2)))


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_rank_that_is_stopped_ends_the_run_at_the_time_limit(stopped_runs, stopped):
    said, directory = stopped_runs[stopped]
    assert said.count(f"rank {stopped}") == said.count("is lost: killed, stopped, or its machine is gone") == 1
    checkpoint_named(said, directory)
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


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """For each of ``CASES`` the exit codes of three ranks, and what they have said; all are run at once."""
    directory = tmp_path_factory.mktemp("three")
    ports = [str(free_port()) for _ in CASES]
    watched = start([sys.executable, str(ROOT / "tests/watched_rank.py"), str(directory), *ports])
    try:
        out, error = watched.communicate(timeout=240)
    finally:
        kill_all(watched)
    assert watched.returncode == 0, error
    return {
        case: (codes, "".join((directory / f"{number}-{rank}").read_text() for rank in range(3)))
        for number, (case, codes) in enumerate(zip(CASES, json.loads(out), strict=True))
    }


def test_ranks_that_finish_say_nothing(three):
    codes, said = three[0, "finish"]
    assert codes == [0, 0, 0]
    assert said == "finished" * 3


@pytest.mark.parametrize("which", [0, 2])
def test_one_of_three_that_raises(three, which):
    codes, said = three[which, "raise"]
    assert codes == [1, 1, 1]
    assert said.count("Traceback") == said.count("ValueError: this rank has failed") == 1
    assert f"It was rank {which} of 3 that failed; the others end with it." in said


def test_one_that_fails_says_so_though_the_others_end_long_before(three):
    codes, said = three[1, "linger"]
    assert codes == [1, 1, 1]
    assert "is lost" not in said
    assert said.count("Traceback") == said.count("It was rank 1 of 3 that failed; the others end with it.") == 1


@pytest.mark.parametrize("which", [0, 1])
def test_one_of_three_that_is_killed(three, which):
    codes, said = three[which, "kill"]
    assert codes == [-signal.SIGKILL if rank == which else 1 for rank in range(3)]
    assert said.count("is lost: killed, stopped, or its machine is gone. It goes on from there.") == 1
    assert f"rank {which}, " in said
    assert "Traceback" not in said


def test_one_of_three_that_hangs_is_named_at_the_time_limit(three):
    codes, said = three[1, "hang"]
    assert codes == [1, 1, 1]
    assert said.count("Traceback") == said.count("Ranks that the others waited for: [1]") == 1
