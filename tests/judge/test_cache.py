import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from judge_server import honest, say
from visplay.judge import Judge, JudgeConfig, JudgeItem, JudgeLimits, Ruling, VerdictCache

PROGRAM = """
import json, sys
from visplay.judge import Judge, JudgeConfig, JudgeItem, JudgeLimits

directory, count, concurrent = json.loads(sys.argv[1])
config = JudgeConfig("m", cache_directory=directory, limits=JudgeLimits(concurrent_requests=concurrent))
items = [JudgeItem(f"k{n}", f"q{n}", f"a{n}", f"a{n}" if n % 3 else f"b{n}") for n in range(count)]
print(json.dumps([[v.key, v.correct, v.cached] for v in Judge(config).judge(items)]))
"""


def make_items(count: int) -> list[JudgeItem]:
    return [JudgeItem(f"k{n}", f"q{n}", f"a{n}", f"a{n}" if n % 3 else f"b{n}") for n in range(count)]


def start(directory, count: int, concurrent: int) -> subprocess.Popen:
    arguments = json.dumps([str(directory), count, concurrent])
    return subprocess.Popen([sys.executable, "-c", PROGRAM, arguments], stdout=subprocess.PIPE, text=True)


def stored(directory) -> list[str]:
    """The complete lines on disk."""
    texts = [path.read_text() for path in directory.glob("*.jsonl")]
    return [line for text in texts for line in text[: text.rfind("\n") + 1].splitlines()]


def test_a_process_killed_in_the_middle_loses_only_what_was_under_way(serve, tmp_path):
    server = serve(lambda seen, attempt: say({"correct": seen.item["gold"] == seen.item["prediction"]}, 0.05))
    killed = start(tmp_path, 60, 4)
    limit = time.monotonic() + 60
    while len(stored(tmp_path)) < 20 and time.monotonic() < limit:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    time.sleep(0.5)  # what was sent before has arrived
    kept, asked = len(stored(tmp_path)), len(server.seen)
    assert 20 <= kept < 60
    assert asked - kept <= 4
    server.script = honest
    verdicts = Judge(JudgeConfig("m", cache_directory=str(tmp_path))).judge(make_items(60))
    assert [(v.key, v.correct) for v in verdicts] == [(f"k{n}", bool(n % 3)) for n in range(60)]
    assert sum(verdict.cached for verdict in verdicts) == kept
    again = server.asked()[asked:]
    assert sorted(again) == sorted(make_items(60)[n].prediction for n, v in enumerate(verdicts) if not v.cached)
    assert len(again) == 60 - kept


def test_processes_share_a_directory_and_a_later_one_asks_nothing(serve, tmp_path):
    server = serve(lambda seen, attempt: say({"correct": seen.item["gold"] == seen.item["prediction"]}, 0.02))
    outputs = [process.communicate(timeout=120)[0] for process in [start(tmp_path, 40, 4) for _ in range(3)]]
    expected = [[f"k{n}", bool(n % 3)] for n in range(40)]
    assert [[item[:2] for item in json.loads(output)] for output in outputs] == [expected] * 3
    asked = len(server.seen)
    last = json.loads(start(tmp_path, 40, 4).communicate(timeout=120)[0])
    assert last == [[*item, True] for item in expected]
    assert len(server.seen) == asked
    assert all(json.loads(line) for line in stored(tmp_path))


def test_a_torn_or_strange_line_is_passed_over_and_the_rest_is_read(tmp_path, caplog):
    VerdictCache(tmp_path).put("a", Ruling(True))
    (path,) = tmp_path.glob("*.jsonl")
    strange = ['{"key": 1, "correct": true, "score": null}', '{"key": "x", "correct": 1, "score": null}', "[]", "\x00"]
    strange += ['{"key": "x", "correct": true, "score": 0.55}', '{"key": "x", "correct": true}', "[" * 50_000]
    lines = [*strange, '{"key": "b", "correct": false, "score": 0.4}', '{"key": "c", "corr']
    path.write_text(path.read_text() + "\n".join(lines))
    cache = VerdictCache(tmp_path)
    assert (cache.get("a"), cache.get("b")) == (Ruling(True), Ruling(False, 0.4))
    assert (cache.get("c"), cache.get("x")) == (None, None)
    assert "7 lines are no verdicts" in caplog.text


def test_half_a_line_is_read_once_it_is_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("visplay.judge.cache._LOOK_AGAIN_SECONDS", -1.0)
    path = tmp_path / "verdicts-1.jsonl"
    line = '{"key": "a", "correct": true, "score": null}\n'
    path.write_text(line[:20])
    cache = VerdictCache(tmp_path)
    assert cache.get("a") is None
    path.write_text(line)
    assert cache.get("a") == Ruling(True)


def test_writers_never_share_a_file(tmp_path):
    caches = [VerdictCache(tmp_path) for _ in range(3)]
    threads = [threading.Thread(target=cache.put, args=(f"{n}", Ruling(True))) for n, cache in enumerate(caches * 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    files = [path.read_text().splitlines() for path in tmp_path.glob("*.jsonl")]
    assert sorted(map(len, files)) == [20, 20, 20]
    assert {json.loads(line)["key"] for lines in files for line in lines} == {f"{n}" for n in range(60)}


def test_a_fork_writes_to_a_file_of_its_own(tmp_path):
    cache = VerdictCache(tmp_path)
    cache.put("parent", Ruling(True))
    child = os.fork()
    if not child:
        cache.put("child", Ruling(False))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    cache.put("parent again", Ruling(True))
    assert sorted(len(path.read_text().splitlines()) for path in tmp_path.glob("*.jsonl")) == [1, 2]


def test_a_cache_continues_its_file(tmp_path):
    cache = VerdictCache(tmp_path)
    for key in "abc":
        cache.put(key, Ruling(True))
    assert len(stored(tmp_path)) == 3
    assert len(list(tmp_path.glob("*.jsonl"))) == 1


def test_what_was_there_first_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("visplay.judge.cache._LOOK_AGAIN_SECONDS", -1.0)
    mine, other = VerdictCache(tmp_path), VerdictCache(tmp_path)
    mine.put("a", Ruling(True))
    other.put("a", Ruling(False))
    assert mine.get("a") == Ruling(True)


def test_another_prompt_or_model_does_not_meet_old_verdicts(serve, tmp_path):
    server = serve()
    for config in (JudgeConfig("m", cache_directory=str(tmp_path)), JudgeConfig("n", cache_directory=str(tmp_path))):
        Judge(config).judge(make_items(3))
    assert len(server.seen) == 6


def test_a_failed_row_is_not_kept(serve, tmp_path):
    serve(lambda seen, attempt: say("nonsense"))
    config = JudgeConfig("m", cache_directory=str(tmp_path), limits=JudgeLimits(retries=0))
    Judge(config).judge(make_items(3))
    assert stored(tmp_path) == []


@pytest.mark.parametrize("score", [None, 0.0, 0.3, 1.0])
def test_rulings_come_back_as_they_were(tmp_path, score):
    cache = VerdictCache(tmp_path)
    cache.put("a", Ruling(False, score))
    assert VerdictCache(tmp_path).get("a") == Ruling(False, score)
