"""Breaks what a small run stands on, mends it, continues the run, and compares it with an undisturbed one, bit by bit.

``python -m benchmarks.faults`` runs the embedded default once for every fault in every stage, see ``FAULTS``. A fault
sets in when the run does one of ``STAGES`` for the n-th time, and lasts until the process ends. Either the run gets
over it, or it ends with an error that says what is wrong; then the fault is mended and the same command given again.
Compared are the weights, optimizers and state of the loop, the generated data, the summary and all logged curves but
times. It prints the table of docs/reliability.md and the errors, and exits with 1 where anything came out otherwise.
"""

from __future__ import annotations

import argparse
import errno
import multiprocessing
import multiprocessing.connection
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.kills import LIMIT_SECONDS, STAGES, VARIANTS, Run, differences

TIMES_OF_STAGE = dict.fromkeys(STAGES, 2) | {"curation": 1, "data set": 1, "validation": 5}
"""For the how manieth time a run does something when the fault sets in; validations 1 to 3 are those of the base."""
SHORT = (
    *("--self_play.iterations=1", "--step_checkpoint.every_n_steps=1", "--self_play.curation.images=4"),
    *("--model.questioner.grpo.steps=2", "--model.reasoner.grpo.steps=2"),
)
VERSION = "tiny/version_0"
SETS_IN = "the fault sets in"
VLLM = (
    "--rollout=visplay.callbacks.VLLMRollout",
    "--rollout.engine={cache_gib: 0.125, max_sequences: 64}",
    "--rollout.timeout_seconds=30",
)
SAMPLES = ("rollout", "votes", "curation", "validation")
GRADES = ("votes", "curation", "validation")
DAMAGED = ("curation", "data set", "validation")
PROCESSES = multiprocessing.get_context("forkserver")  # imports what every run does once
PROCESSES.set_forkserver_preload(["visplay.cli"])
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def nothing() -> None:
    """Prepare a run that needs nothing."""


class Fault(NamedTuple):
    """What goes wrong.

    Args:
        inject: Called in the run's process, when the stage begins, with the run's directory.
        says: What the error has to say, as a pattern; "" where the run has to get over it.
        mend: Called once the process has ended, with the run's directory.
        stages: In which it is injected.
        options: Of the run and of the undisturbed one.
        prepare: Called in the process of either before it begins.
    """

    inject: Callable[[Path], None]
    says: str = ""
    mend: Callable[[Path], None] = lambda directory: None
    stages: Sequence[str] = tuple(STAGES)
    options: Sequence[str] = ()
    prepare: Callable[[], None] = nothing


def fill_disk(directory: Path) -> None:
    """Have no file grow any more: the system rejects what is written, wherever, within a write if need be."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def make_read_only(directory: Path) -> None:
    """Reject whatever would change the directory; permissions mean nothing to root."""

    def reject(event: str, given: tuple) -> None:
        changes = event in ("os.mkdir", "os.rename", "os.remove", "os.truncate")
        changes |= event == "open" and bool(set(given[1] or "") & set("wax+") or (given[2] or 0) & _WRITES)
        if changes and isinstance(given[0], str | os.PathLike) and str(given[0]).startswith(str(directory)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(given[0]))

    sys.addaudithook(reject)


def _away(directory: Path) -> Path:
    return directory.parents[1] / "away"


def unmount(directory: Path) -> None:
    """Take the directory away, as when a network disk is gone."""
    directory.rename(_away(directory))


def mount(directory: Path) -> None:
    """Bring it back; what was written in its place meanwhile is hidden."""
    shutil.rmtree(directory, ignore_errors=True)
    _away(directory).rename(directory)


def _die(directory: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


def _rot(pattern: str) -> Callable[[Path], None]:
    """Damage the newest file of a pattern; which has to be there."""

    def damage(directory: Path) -> None:
        _flip(max(directory.glob(pattern), key=lambda path: path.stat().st_mtime_ns))

    return damage


def break_manifest(directory: Path) -> None:
    """Leave half of the manifest."""
    path = directory / "manifest.json"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def grade_everything_in_the_worker() -> None:
    """Have a process compare all answers that differ as texts; the embedded default needs it for none."""
    from visplay.grading import worker

    compare = worker.compare

    def ask(a: str, b: str, rules: Any) -> Any:
        found = compare(a, b, rules)
        return replace(found, outcome="", expressions=((a, b),)) if found.outcome == "different" else found

    worker.compare = ask


def _once(owner: Any, name: str, act: Callable[[Any], None]) -> None:
    """Have something happen in the next call of a method, and in no other."""
    method, left = getattr(owner, name), [act]

    def call(self: Any, *given: Any, **named: Any) -> Any:
        if left:
            left.pop()(self)
        return method(self, *given, **named)

    setattr(owner, name, call)


def kill_grader(directory: Path) -> None:
    """Kill the process that compares, before it answers."""
    from visplay.grading.worker import _Worker

    def kill(worker: Any) -> None:
        worker._process.kill()
        worker._process.wait()

    _once(_Worker, "ask", kill)


def _in_next_step_of_vllm(act: Callable[[Any], None]) -> Callable[[Path], None]:
    def inject(directory: Path) -> None:
        from vllm.v1.engine.llm_engine import LLMEngine

        _once(LLMEngine, "step", act)

    return inject


def _fail(engine: Any) -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def _hang(engine: Any) -> None:
    time.sleep(LIMIT_SECONDS)


def _hang_out_of_reach(engine: Any) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])  # as in a call that never returns to Python
    time.sleep(LIMIT_SECONDS)


FAULTS = {
    "full disk": Fault(fill_disk, r"File too large|the disk took part of"),
    "read-only directory": Fault(make_read_only, r"Read-only file system"),
    "vanished directory": Fault(unmount, r"No such file|the run.s directory was removed", mount),
    "grader's process killed": Fault(kill_grader, stages=GRADES, prepare=grade_everything_in_the_worker),
    "killed, newest checkpoint damaged": Fault(_die, mend=_rot("checkpoints/*.ckpt"), stages=DAMAGED),
    "killed, data set damaged": Fault(_die, mend=_rot("generated/*.parquet"), stages=("validation",)),
    "killed, manifest damaged": Fault(_die, mend=break_manifest, stages=("validation",)),
    "killed, answers damaged": Fault(_die, mend=_rot("evaluation/*/*.jsonl"), stages=("validation",)),
    "killed, summary damaged": Fault(_die, mend=_rot("summary.json"), stages=("validation",)),
    "vLLM raises": Fault(_in_next_step_of_vllm(_fail), stages=SAMPLES, options=VLLM),
    "vLLM hangs": Fault(_in_next_step_of_vllm(_hang), stages=SAMPLES, options=VLLM),
    "vLLM hangs out of reach": Fault(
        _in_next_step_of_vllm(_hang_out_of_reach), "cannot be interrupted", stages=SAMPLES, options=VLLM
    ),
}


def fit(fault: str, stage: str, directory: Path, options: Sequence[str]) -> None:
    """Run ``visplay fit``, with a fault, if any, from the n-th time on that the run does something."""
    from importlib import import_module
    from pydoc import locate

    from visplay.cli import run

    if fault:
        owner, _, name = STAGES[stage].rpartition(".")
        place = locate(owner) or import_module(owner)
        call, begun = getattr(place, name), count(1)

        def called(*given: Any, **named: Any) -> Any:
            if next(begun) == TIMES_OF_STAGE[stage]:
                print(SETS_IN, flush=True)
                FAULTS[fault].inject(directory / VERSION)
            return call(*given, **named)

        setattr(place, name, called)
    sys.argv[1:] = []  # else Lightning takes those of this script for a run's
    run(["fit", *options])


class FaultyRun(Run):
    """A run of the embedded default in a directory of its own, that something may go wrong in."""

    def __init__(self, directory: Path, images: Path, fault: Fault) -> None:
        super().__init__(directory, images, VARIANTS["two policies"], [*SHORT, *fault.options])
        self.prepare = fault.prepare

    def attempt(self, fault: str = "", stage: str = "") -> tuple[int, str]:
        """Start or continue it; its exit code and what it printed."""
        reader, writer = PROCESSES.Pipe(duplex=False)
        given = (fault, stage, self.directory, self.options)
        process = PROCESSES.Process(target=_attempt, args=(writer, self.prepare, *given))
        process.start()
        writer.close()
        printed = bytearray()
        while multiprocessing.connection.wait([reader], LIMIT_SECONDS):
            if not (part := os.read(reader.fileno(), 2**16)):
                break
            printed += part
        else:
            process.kill()
        process.join()
        assert process.exitcode is not None
        return process.exitcode, printed.decode(errors="replace")

    def finish(self) -> None:
        """Let it end; a RuntimeError if it fails."""
        code, words = self.attempt()
        if code:
            raise RuntimeError(words[-4000:])


def _attempt(writer: Any, prepare: Callable[[], None], *given: Any) -> None:
    """In the process of a run: its output goes to a pipe, which a disk that is full does not concern."""
    os.dup2(writer.fileno(), 1)
    os.dup2(writer.fileno(), 2)
    writer.close()
    prepare()
    fit(*given)


def try_fault(name: str, stage: str, directory: Path, images: Path, expected: dict[str, Any]) -> tuple[str, str]:
    """Let a run go wrong, mend what is wrong, continue it and compare.

    Returns:
        What came of it, for the table, and the error's words.

    Raises:
        AssertionError: The run hides what is wrong, cannot be continued, or comes out otherwise.
    """
    fault = FAULTS[name]
    run = FaultyRun(directory, images, fault)
    code, words = run.attempt(name, stage)
    if SETS_IN not in words:
        raise AssertionError(f"the run did not come to the fault: {words[-3000:]}")
    outcome = "recovered"
    if code:
        outcome = "error, resumed" if code > 0 else "resumed"
        if code > 0 and not (fault.says and re.search(fault.says, words) and "--auto_resume" in words):
            raise AssertionError(f"the error does not say what is wrong: {words[-3000:]}")
        fault.mend(run.directory / VERSION)
        run.finish()
    if differing := differences(expected, run.outcome()):
        raise AssertionError(f"{outcome}, but it came out otherwise: {differing}")
    return outcome, words[-1500:]


def measure(directory: Path, chosen: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Try faults in stages, and say what came of each."""
    images, expected, outcomes = directory / "images", {}, {}
    for number, (name, stage) in enumerate(chosen):
        alike = FAULTS[name].options, FAULTS[name].prepare
        if alike not in expected:
            whole = FaultyRun(directory / f"whole-{number}", images, FAULTS[name])
            whole.finish()
            expected[alike] = whole.outcome()
        start = time.monotonic()
        try:
            found, words = try_fault(name, stage, directory / f"run-{number}", images, expected[alike])
        except (AssertionError, RuntimeError, OSError, ValueError) as error:  # the last two of a run that left nothing
            found, words = "FAILED", str(error)
        outcomes[name, stage] = found
        print(f"{name}, {stage}: {found} ({time.monotonic() - start:.0f} s)\n{words}", flush=True)
    return outcomes


def table(outcomes: dict[tuple[str, str], str]) -> str:
    """A row per fault, a column per stage, as Markdown."""
    names = list(dict.fromkeys(name for name, _ in outcomes))
    stages = [stage for stage in STAGES if any(each == stage for _, each in outcomes)]
    rows = [[name, *(outcomes.get((name, stage), "") for stage in stages)] for name in names]
    return "\n".join(f"| {' | '.join(row)} |" for row in (["fault", *stages], ["---"] * (len(stages) + 1), *rows))


def main() -> None:
    """Break, mend, continue, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=FAULTS, action="append", help="a fault; again for more")
    parser.add_argument("--stage", choices=STAGES, action="append", help="a stage; again for more")
    given = parser.parse_args()
    chosen = [(name, stage) for name in given.only or FAULTS for stage in FAULTS[name].stages]
    chosen = [(name, stage) for name, stage in chosen if given.stage is None or stage in given.stage]
    with tempfile.TemporaryDirectory(prefix="visplay-faults-") as directory:
        outcomes = measure(Path(directory), chosen)
    print(table(outcomes))
    sys.exit("FAILED" in outcomes.values())


if __name__ == "__main__":
    main()
