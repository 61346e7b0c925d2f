import asyncio
import pickle
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from jsonargparse import ArgumentParser

from judge_server import COMPLETION_TOKENS, PROMPT_TOKENS, honest, say
from visplay.judge import Judge, JudgeConfig, JudgeItem, JudgeLimits, JudgeUnavailableError, JudgeUsage, Verdict

ROWS = [JudgeItem(f"item {n}", f"What is {n}?", "7", "7" if n % 3 else f"{n + 100}") for n in range(24)]


def distinct(count: int, right: int = 3) -> list[JudgeItem]:
    """Items that differ, every ``right``-th of them wrong."""
    return [JudgeItem(f"k{n}", f"q{n}", f"a{n}", f"a{n}" if n % right else f"b{n}") for n in range(count)]


def judge(**settings) -> Judge:
    return Judge(JudgeConfig("m", **settings))


def test_verdicts_come_in_the_order_of_the_rows_and_under_their_keys(serve):
    def slower_first(seen, attempt):
        return replace(honest(seen, attempt), delay_seconds=0.3 if seen.item["question"] == "q0" else 0.0)

    serve(slower_first)
    items = distinct(24)
    verdicts = judge().judge(items)
    assert verdicts == [Verdict(f"k{n}", bool(n % 3)) for n in range(24)]


def test_rows_may_not_share_a_key(serve):
    serve()
    with pytest.raises(ValueError, match="keys of items to judge must differ"):
        judge().judge([ROWS[0], ROWS[0]])


def test_no_rows_no_verdicts_no_environment(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert judge().judge([]) == []


def test_concurrency_is_bounded_and_used(serve):
    server = serve(lambda seen, _: say({"correct": True}, delay_seconds=0.3))
    judge(limits=JudgeLimits(concurrent_requests=3)).judge(distinct(12))
    assert server.most_concurrent == 3
    assert len(server.seen) == 12


def test_equal_rows_share_a_request_and_a_memory(serve):
    server = serve()
    ours = judge()
    same = [JudgeItem(f"k{n}", "q", "a", "a") for n in range(5)]
    assert [verdict.correct for verdict in ours.judge(same)] == [True] * 5
    again = ours.judge([JudgeItem("other", "q", "a", "a")])
    assert again == [Verdict("other", True, cached=True)]
    assert len(server.seen) == 1


def test_a_blank_prediction_is_wrong_and_nobody_is_asked(serve):
    server = serve()
    ours = judge()
    blanks = [JudgeItem("a", "q", "g", " \n"), JudgeItem("b", "q", "g", "", graded=True)]
    assert ours.judge(blanks) == [Verdict("a", False, cached=True), Verdict("b", False, 0.0, cached=True)]
    assert server.seen == []
    assert ours.drain_usage() == JudgeUsage(items=2, blank_items=2)


def test_graded_rows_get_a_score_and_others_do_not(serve):
    def script(seen, _):
        properties = seen.body["response_format"]["json_schema"]["schema"]["properties"]
        return say({"correct": True, "score": 0.7} if "score" in properties else {"correct": True})

    serve(script)
    items = [JudgeItem("plain", "q", "g", "p"), JudgeItem("graded", "q", "g", "p", graded=True)]
    assert judge().judge(items) == [Verdict("plain", True), Verdict("graded", True, 0.7)]


def test_usage_counts_rows_requests_and_tokens(serve):
    serve()
    ours = judge()
    ours.judge(distinct(6))
    ours.judge(distinct(8))
    assert ours.drain_usage() == JudgeUsage(
        items=14,
        cached_items=6,
        requests=8,
        prompt_tokens=8 * PROMPT_TOKENS,
        completion_tokens=8 * COMPLETION_TOKENS,
    )
    assert ours.drain_usage() == JudgeUsage()


def test_a_running_event_loop_is_no_obstacle_and_nothing_is_left(serve):
    serve()
    before = set(threading.enumerate())

    async def caller():
        return judge().judge(distinct(5))

    assert len(asyncio.run(caller())) == 5
    ours = {thread for thread in set(threading.enumerate()) - before if "process_request" not in thread.name}
    assert ours == set()


def test_threads_may_share_a_judge(serve):
    server = serve()
    ours, found = judge(), {}
    parts = [distinct(40)[start::4] for start in range(4)]

    def work(part):
        found.update({verdict.key: verdict for verdict in ours.judge(part)})

    threads = [threading.Thread(target=work, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key: verdict.correct for key, verdict in found.items()} == {f"k{n}": bool(n % 3) for n in range(40)}
    assert len(server.seen) == ours.drain_usage().requests == 40


@pytest.mark.parametrize("name", ["OPENAI_BASE_URL", "OPENAI_API_KEY"])
@pytest.mark.parametrize("value", [None, " "])
def test_a_missing_variable_is_named(serve, monkeypatch, name, value):
    serve()
    monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    with pytest.raises(JudgeUnavailableError, match=f"^{name}: the judge needs this environment variable"):
        judge().check_environment()
    with pytest.raises(JudgeUnavailableError, match=name):
        judge().judge(ROWS)


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1", "127.0.0.1:80", "http://a:secret@[::1]/v1", "http://[::1/v1", "http://a:b"]
)
def test_an_address_that_cannot_be_used_is_refused_and_not_repeated(serve, monkeypatch, url):
    serve()
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(JudgeUnavailableError, match="OPENAI_BASE_URL: must look like") as caught:
        judge().check_environment()
    assert "secret" not in str(caught.value)


def test_a_key_that_no_header_can_carry_is_refused_and_not_repeated(serve, monkeypatch):
    serve()
    monkeypatch.setenv("OPENAI_API_KEY", "sécret")
    with pytest.raises(JudgeUnavailableError, match="OPENAI_API_KEY: must be printable ASCII") as caught:
        judge().check_environment()
    assert "cret" not in str(caught.value)


def test_a_missing_package_is_named(serve, monkeypatch):
    serve()
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(JudgeUnavailableError, match=r"visplay\[judge\]"):
        judge().judge(ROWS)


def test_what_is_cached_needs_neither_package_nor_environment(serve, monkeypatch, tmp_path):
    serve()
    first = judge(cache_directory=str(tmp_path)).judge(ROWS)
    monkeypatch.setitem(sys.modules, "openai", None)
    monkeypatch.delenv("OPENAI_API_KEY")
    again = judge(cache_directory=str(tmp_path)).judge(ROWS)
    assert [verdict.correct for verdict in again] == [verdict.correct for verdict in first]
    assert all(verdict.cached for verdict in again)


def test_importing_loads_neither_the_client_nor_torch():
    code = "import sys, visplay.judge; print({'openai', 'torch', 'httpx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "set()"


def test_a_copy_has_the_same_settings(tmp_path):
    ours = judge(cache_directory=str(tmp_path), limits=JudgeLimits(retries=1))
    assert pickle.loads(pickle.dumps(ours)).config == ours.config


def test_settings_are_read_from_yaml():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--judge", type=JudgeConfig)
    settings = {"model": "m", "protocol": "paper", "limits": {"retries": 2}, "request_options": {"max_tokens": None}}
    parsed = parser.instantiate_classes(parser.parse_object({"judge": settings})).judge
    assert parsed == JudgeConfig("m", "paper", limits=JudgeLimits(retries=2), request_options={"max_tokens": None})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": " "}, "model: must name a model"),
        ({"model": "m", "max_tokens": 0}, "max_tokens: must be at least 1, got 0"),
        ({"model": "m", "request_options": {"messages": []}}, "request_options: .*messages"),
        ({"model": "m", "request_options": {"extra_body": {}}}, "request_options: .*extra_body"),
    ],
)
def test_settings_that_cannot_be_are_rejected(settings, message):
    with pytest.raises(ValueError, match=message):
        JudgeConfig(**settings)


@pytest.mark.parametrize(
    "limits", [{"concurrent_requests": 0}, {"retries": -1}, {"request_seconds": 0}, {"total_seconds": float("inf")}]
)
def test_limits_that_allow_nothing_or_everything_are_rejected(limits):
    with pytest.raises(ValueError, match=f"{next(iter(limits))}: must be finite"):
        JudgeLimits(**limits)
