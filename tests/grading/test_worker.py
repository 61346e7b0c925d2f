import copy
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from visplay.functional import equivalent, vote
from visplay.grading import worker as grader_module
from visplay.grading.mathematics import same_mathematics
from visplay.grading.worker import OUTCOMES, Grader

PAIRS = json.loads((Path(__file__).parent / "answer_pairs.json").read_text())
EQUAL, DIFFERENT = (r"\{1,2\}", r"\{2,1\}"), ("x = 3 or x = -3", r"x = \sqrt{9}")
BROKEN = (r"x + \sqrt{5}", r"\sqrt{5} + x")
ALSO_EQUAL = (r"\{1,3\}", r"\{3,1\}")
HANGS = "pass"


@pytest.fixture
def grader():
    """With a limit that no pair of these tests reaches, however busy the machine is."""
    grader = Grader(time_limit_seconds=60)
    yield grader
    grader.close()


def _children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def _break(monkeypatch, statement: str, when: str = r"\\sqrt{5}") -> None:
    """Let the worker run a statement instead of comparing with a text in it."""
    keyword = "while" if statement == HANGS else "if"
    program = grader_module._PROGRAM.replace(
        "        try:\n            outcome",
        f"        try:\n            {keyword} '{when}' in line: {statement}\n            outcome",
    )
    assert program != grader_module._PROGRAM
    monkeypatch.setattr(grader_module, "_PROGRAM", program)


def test_same_relation_as_in_process(grader):
    graded = [grader(pair["prediction"], pair["gold"]) for pair in PAIRS]
    assert graded == [equivalent(pair["prediction"], pair["gold"]) for pair in PAIRS]
    assert set(grader.outcomes) <= set(OUTCOMES)
    assert grader.outcomes["timed_out"] == grader.outcomes["worker_failed"] == 0
    assert grader.outcomes.total() == len(PAIRS)


def test_no_process_before_the_first_mathematics(grader):
    before = _children()
    assert grader("1/2", "0.5")
    assert grader._worker is None
    assert _children() == before
    assert grader(*EQUAL)
    assert len(_children() - before) == 1


def test_outcomes_are_counted(grader):
    for a, b in [
        ("Red", "red."),
        ("a cat", "cat"),
        ("1/2", "0.5"),
        ("B", "B. Paris"),
        ("2", "3"),
        EQUAL,
        DIFFERENT,
        EQUAL,
    ]:
        grader(a, b)
    counts = {"equal_text": 2, "equal_value": 1, "equal_option": 1, "different": 1}
    counts |= {"equal_mathematics": 2, "different_mathematics": 1}
    assert grader.outcomes == Counter(counts)
    assert grader.drain_outcomes() == counts
    assert grader.drain_outcomes() == {}


def test_a_hanging_comparison_is_killed_and_the_next_one_works(monkeypatch, grader):
    _break(monkeypatch, HANGS)
    assert grader(*EQUAL)
    grader.time_limit_seconds = 0.5
    start = time.monotonic()
    assert not grader(*BROKEN)
    assert time.monotonic() - start >= 0.5
    assert grader._worker is None
    assert not grader(*BROKEN[::-1])
    assert grader._worker is None  # remembered: no other has been asked
    grader.time_limit_seconds = 60
    assert grader(*ALSO_EQUAL)
    assert grader.outcomes == {"equal_mathematics": 2, "timed_out": 2}


def test_a_vote_on_hard_answers_is_bounded(monkeypatch):
    _break(monkeypatch, HANGS, when="sqrt")
    grader = Grader(time_limit_seconds=0.2)
    asked, ask = [], Grader._ask_worker
    monkeypatch.setattr(Grader, "_ask_worker", lambda self, *pair: asked.append(pair) or ask(self, *pair))
    hard = [rf"x + \sqrt{{{n}}} + \sin(x)" for n in range(10)]  # 45 pairs
    with grader.bounded():
        assert [count for _, count in vote(hard, grader).counts] == [1] * 10
    assert 1 <= len(asked) <= 4  # three limits, less what the starts of workers take
    assert grader.outcomes == {"timed_out": 45}
    grader.close()


def test_an_expression_that_exceeded_the_limit_twice_is_not_tried_again(monkeypatch):
    tried = []
    monkeypatch.setattr(Grader, "_ask_worker", lambda self, a, b, limit: tried.append((a, b)) or "timed_out")
    grader = Grader()
    hard, others = BROKEN[0], [rf"x + \sqrt{{{n}}} \sin(x)" for n in range(5)]
    assert not any(grader(hard, other) for other in others)
    assert len(tried) == 2
    grader(others[3], others[4])
    assert len(tried) == 3


def test_what_had_less_than_its_limit_is_tried_again(monkeypatch):
    limits = []

    def ask(self, a, b, limit):
        limits.append(limit)
        return "timed_out" if len(limits) < 3 else "equal_mathematics"

    monkeypatch.setattr(Grader, "_ask_worker", ask)
    monkeypatch.setattr("visplay.grading.worker.time.monotonic", iter([0.0, 5.5, 5.5, 6.0, 6.0, 6.0]).__next__)
    grader = Grader()
    with grader.bounded():
        assert not grader(*ALSO_EQUAL)
        assert not grader(*EQUAL)
    assert limits == [2.0, 0.5]
    with grader.bounded():
        assert grader(*EQUAL)


def test_an_explosive_expression_is_bounded(grader):
    grader.time_limit_seconds = 1.0
    start = time.monotonic()
    assert not grader("(1+x)^{999}(2+y)^{999}", "(2+x)^{999}(1+y)^{999}=0")
    assert time.monotonic() - start < 60  # two starts of the worker, on a busy machine
    grader.time_limit_seconds = 60
    assert grader(*EQUAL)


def test_a_worker_that_is_killed_is_replaced(grader):
    assert grader(*EQUAL)
    first = grader._worker._process
    os.kill(first.pid, signal.SIGKILL)
    assert grader(*ALSO_EQUAL)
    assert grader._worker._process.pid != first.pid
    assert grader.outcomes == {"equal_mathematics": 2}


@pytest.mark.parametrize("statement", ["os._exit(1)", "raise MemoryError", "bytearray(3 * 1024**3)"])
def test_a_comparison_that_fails_twice_is_counted(grader, monkeypatch, statement):
    _break(monkeypatch, statement)
    assert not grader(*BROKEN)
    assert grader(*EQUAL)
    assert grader.outcomes == {"worker_failed": 1, "equal_mathematics": 1}


def test_a_worker_that_does_not_start_is_counted(grader, monkeypatch):
    monkeypatch.setattr(grader_module, "_PROGRAM", "raise SystemExit(1)")
    assert not grader(*EQUAL)
    assert grader.outcomes == {"worker_failed": 1}


def test_threads_do_not_mix_answers(grader):
    pairs = [(rf"\{{{n}, 1\}}", rf"\{{1, {n}\}}") for n in range(2, 12)]
    pairs += [(rf"y = {n} or y = 2", rf"x = {n} or x = 1") for n in range(2, 12)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda pair: grader(*pair), pairs)) == [True] * 10 + [False] * 10
    assert grader.outcomes == {"equal_mathematics": 10, "different_mathematics": 10}


def test_works_in_another_thread():
    graded = []
    thread = threading.Thread(target=lambda: graded.append(Grader()(*EQUAL)))
    thread.start()
    thread.join()
    assert graded == [True]


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda grader: pickle.loads(pickle.dumps(grader))])
def test_a_copy_starts_anew(duplicate):
    grader = Grader(time_limit_seconds=3.0)
    grader(*EQUAL)
    other = duplicate(grader)
    assert (other.time_limit_seconds, other.outcomes, other._worker) == (3.0, {}, None)
    assert grader._worker is not None
    grader.close()


def test_leaves_no_process_behind():
    before = _children()
    grader = Grader()
    grader(*EQUAL)
    grader.close()
    assert _children() == before
    grader.close()
    assert grader(*ALSO_EQUAL)
    del grader
    assert _children() == before


def test_ends_silently_with_the_interpreter():
    code = (
        "from visplay.grading.worker import Grader; g = Grader(); "
        "print(g(r'\\{1,2\\}', r'\\{2,1\\}'), g._worker._process.pid)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    answer, pid = done.stdout.split()
    assert (done.returncode, done.stderr, answer) == (0, "", "True")
    assert not Path(f"/proc/{pid}").exists()


def test_a_fork_starts_its_own_worker():
    code = """
import os, sys
from visplay.grading.worker import Grader
grader = Grader()
grader(r"\\{1,2\\}", r"\\{2,1\\}")
pid = os.fork()
if pid == 0:
    sys.exit(0 if grader(r"\\{1,3\\}", r"\\{3,1\\}") and grader.outcomes.total() == 1 else 1)
assert os.waitpid(pid, 0)[1] == 0
assert grader._worker._process.poll() is None
assert grader(r"\\{1,4\\}", r"\\{4,1\\}")
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_worker_loads_no_framework(monkeypatch, grader):
    _break(monkeypatch, "raise SystemExit if {'torch', 'visplay'} & set(sys.modules) else ValueError")
    same_mathematics(*EQUAL)
    assert not grader(*BROKEN)
    assert grader._worker is not None  # it lives: a ValueError is caught, a SystemExit is not


def test_votes_through_a_grader(grader):
    assert vote([*EQUAL, "3"], grader).counts == ((EQUAL[0], 2), ("3", 1))


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_refuses_a_limit_that_is_none(seconds):
    with pytest.raises(ValueError, match="time_limit_seconds: must be positive"):
        Grader(seconds)


def test_a_vote_asks_the_worker_once_for_a_pair_of_distinct_answers(monkeypatch):
    asked = []
    monkeypatch.setattr(
        Grader, "_ask_worker", lambda self, a, b, limit: asked.append({a, b}) or "different_mathematics"
    )
    forms = [r"\{1,2\}", r"\sqrt{y}", "x^2+1"]
    grader = Grader()
    answers = [*forms * 3, rf"${forms[0]}$"]  # K = 10: 45 pairs, 3 of them distinct, of which rules settle one
    for order in (answers, answers[::-1]):
        assert sorted(count for _, count in vote(order, grader).counts) == [3, 3, 4]
        assert sorted(map(sorted, asked)) == sorted(sorted((forms[0], other)) for other in forms[1:])
