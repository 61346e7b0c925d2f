"""Answer grading with a hard time limit: mathematics runs in a worker process that can be killed.

math-verify and sympy can hang in C, where no alarm reaches them, and alarms work in the main thread only. The worker is
a fresh interpreter (no fork), loads neither torch nor this package, and has bounded memory.
"""

from __future__ import annotations

import json
import multiprocessing.connection
import os
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from visplay.grading import mathematics
from visplay.grading.equivalence import compare
from visplay.grading.rules import DEFAULT_RULES, GradingRules
from visplay.grading.text import normalise_answer

OUTCOMES = (
    "equal_text",
    "equal_value",
    "equal_option",
    "equal_mathematics",
    "different",
    "different_mathematics",
    "timed_out",
    "worker_failed",
)
_START_LIMIT_SECONDS = 60.0
_EXIT_LIMIT_SECONDS = 5.0
_MEMORY_BYTES = 2 * 1024**3
_CACHED_PAIRS = 65536
_LIMITS_IN_BUDGET = 3
_HOPELESS = 2  # an expression that exceeded the limit next to so many others is not tried again
_PROGRAM = """
import importlib.util, json, os, signal, sys

def serve(path, seconds, memory_bytes, self_test):
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no answer
    try:
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    except (ImportError, OSError, ValueError):
        pass
    spec = importlib.util.spec_from_file_location("mathematics", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.verify(*self_test, None)  # imports sympy and builds the grammar
    print(json.dumps("ready"), file=answers)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_REAL, seconds)  # ends a worker whose parent is gone
        try:
            outcome = "equal_mathematics" if module.verify(*json.loads(line), None) else "different_mathematics"
        except Exception:
            outcome = "worker_failed"
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(outcome), file=answers)

serve(*json.loads(sys.argv[1]))
"""


class Grader:
    """Whether two answers say the same: the relation ``equivalent`` with mathematics under a hard time limit.

    The worker starts before the first comparison that needs it, whose limit does not include the start (about a
    second), and is killed when a comparison exceeds the limit; the next one starts another. A worker that dies is
    restarted once per comparison. Undecided is not equivalent. Decisions on mathematics are remembered, and so is an
    expression that exceeded the limit twice: it is not tried again. ``bounded`` limits many comparisons together.
    Threads may share a grader; a copy has the same settings and starts without worker, counts and memory.

    Args:
        time_limit_seconds: Longest time for one comparison of expressions.
        rules: What counts as the same where people differ.

    Attributes:
        outcomes: Comparisons by the way they were decided, one of ``OUTCOMES``: ``equal_text`` and ``different`` by
            text or value, ``equal_value`` as numbers, quantities or dates, ``equal_option`` by option letter or text,
            ``equal_mathematics`` and ``different_mathematics`` by math-verify; ``timed_out`` and ``worker_failed``
            (it died twice, ran out of memory or did not start) are undecided.
        on_graded: Told of every comparison: both answers and the outcome.

    Raises:
        ValueError: The time limit is not positive.

    Example:
        >>> grader = Grader()
        >>> grader("1/2", "0.50"), grader("12 cm", "12 km"), grader.drain_outcomes()
        (True, False, {'equal_value': 1, 'different': 1})
    """

    def __init__(self, time_limit_seconds: float = 2.0, rules: GradingRules = DEFAULT_RULES) -> None:
        if not time_limit_seconds > 0:
            raise ValueError(f"time_limit_seconds: must be positive, got {time_limit_seconds}")
        self.time_limit_seconds = time_limit_seconds
        self.rules = rules
        self.outcomes: Counter[str] = Counter()
        self.on_graded: Callable[[str, str, str], None] | None = None
        self._verdicts: OrderedDict[frozenset[str], str] = OrderedDict()
        self._exceeded: Counter[str] = Counter()
        self._budget = threading.local()
        self._worker: _Worker | None = None
        self._lock = threading.RLock()
        self._process_id = os.getpid()

    def __call__(self, a: str, b: str) -> bool:
        """Compare two answers."""
        if self._process_id != os.getpid():  # a fork must not talk to its parent's worker
            self.__setstate__(self.__getstate__())
        comparison = compare(a, b, self.rules)
        outcome = comparison.outcome or self._verify_any(comparison.expressions)
        with self._lock:
            self.outcomes[outcome] += 1
        if self.on_graded is not None:
            self.on_graded(a, b, outcome)
        return outcome.startswith("equal")

    def normalise(self, text: str) -> str:
        """The canonical form of an answer under the rules."""
        return normalise_answer(text, self.rules)

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """Give all comparisons within, those of one vote say, three time limits together; what is left is undecided."""
        self._budget.seconds = _LIMITS_IN_BUDGET * self.time_limit_seconds
        try:
            yield
        finally:
            del self._budget.seconds

    def drain_outcomes(self) -> dict[str, int]:
        """Return the counts since the last call and start again at zero."""
        with self._lock:
            drained, self.outcomes = dict(self.outcomes), Counter()
        return drained

    def close(self) -> None:
        """End the worker; a later comparison starts another."""
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"time_limit_seconds": self.time_limit_seconds, "rules": self.rules}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _verify_any(self, expressions: tuple[tuple[str, str], ...]) -> str:
        """The first equality, else the first pair that is undecided, else that all differ."""
        undecided = ""
        for a, b in expressions:
            outcome = self._verify(a, b)
            if outcome == "equal_mathematics":
                return outcome
            undecided = undecided or ("" if outcome == "different_mathematics" else outcome)
        return undecided or "different_mathematics"

    def _verify(self, a: str, b: str) -> str:
        """Ask the memory, then the worker; one question at a time."""
        pair = frozenset((a, b))
        with self._lock:
            if pair in self._verdicts:
                self._verdicts.move_to_end(pair)
                return self._verdicts[pair]
            left = getattr(self._budget, "seconds", self.time_limit_seconds)
            if left <= 0 or max(self._exceeded[a], self._exceeded[b]) >= _HOPELESS:
                return "timed_out"
            start, limit = time.monotonic(), min(left, self.time_limit_seconds)
            outcome = self._ask_worker(a, b, limit)
            if hasattr(self._budget, "seconds"):
                self._budget.seconds = left - (time.monotonic() - start)
            if outcome == "timed_out" and limit < self.time_limit_seconds:
                return outcome  # with less than its limit it has not been tried
            if outcome == "timed_out":
                self._exceeded.update(pair)
            self._remember(pair, outcome)
        return outcome

    def _remember(self, pair: frozenset[str], outcome: str) -> None:
        self._verdicts[pair] = outcome
        if len(self._verdicts) > _CACHED_PAIRS:
            self._verdicts.popitem(last=False)

    def _ask_worker(self, a: str, b: str, limit_seconds: float) -> str:
        """Ask a worker; one that died is replaced once."""
        for _ in range(2):
            worker, self._worker = self._worker, None  # kept only once it has answered
            try:
                worker = worker or _Worker(self.time_limit_seconds)
                outcome = worker.ask([a, b], limit_seconds)
            except TimeoutError:
                return "timed_out"
            except OSError:
                continue
            self._worker = worker
            return outcome
        return "worker_failed"


class _Worker:
    """A process that compares expressions, one after the other."""

    def __init__(self, time_limit_seconds: float) -> None:
        alarm_seconds = time_limit_seconds + _EXIT_LIMIT_SECONDS
        arguments = [mathematics.__file__, alarm_seconds, _MEMORY_BYTES, [r"\frac{1}{2}", r"\sqrt{4}"]]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd=Path(mathematics.__file__).anchor,
        )
        self.close = weakref.finalize(self, _end, self._process, os.getpid())  # also at the exit of the interpreter
        try:
            self._receive(_START_LIMIT_SECONDS)
        except TimeoutError as error:
            raise ChildProcessError("the worker did not start") from error

    def ask(self, question: list[str], time_limit_seconds: float) -> str:
        """Send two expressions and wait for the outcome.

        Raises:
            TimeoutError: It took longer than the limit.
            OSError: The worker died.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        return self._receive(time_limit_seconds)

    def _receive(self, time_limit_seconds: float) -> str:
        answers = self._process.stdout
        assert answers is not None
        if not multiprocessing.connection.wait([answers], time_limit_seconds):  # type: ignore[list-item]
            raise TimeoutError(f"no answer within {time_limit_seconds} s")
        line = answers.readline()
        if not line.endswith(b"\n"):
            raise ChildProcessError("the worker died")
        return str(json.loads(line))


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    """Kill a worker, wait for it and close its pipes; a fork of its owner closes the pipes only."""
    if owner == os.getpid():
        process.kill()
        process.wait()
    else:
        process.returncode = 0
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
