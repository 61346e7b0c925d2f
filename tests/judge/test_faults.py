import json
import logging
import os
import random
import signal
import threading
import time
from collections import Counter

import pytest

from judge_server import Reply, honest, reject, say
from visplay.judge import Judge, JudgeConfig, JudgeItem, JudgeLimits
from visplay.judge.config import FAILURES
from visplay.judge.endpoint import read_retry_after

QUICK = JudgeLimits(concurrent_requests=8, request_seconds=3.0, retries=8, wait_seconds=0.01, longest_wait_seconds=1.0)
FAULTS = {
    "slow": lambda: say({"correct": True}, delay_seconds=30.0),
    "busy": lambda: reject(429, Retry_After="0.02"),
    "broken": lambda: reject(500),
    "gateway": lambda: Reply(b"<html>bad gateway</html>", 502),
    "hung up": lambda: Reply(b"", status=None),
    "prose": lambda: say("I think that it is correct."),
    "fenced": lambda: say('```json\n{"correct": true}'),
    "deep": lambda: say("[" * 100_000),
    "other schema": lambda: say({"verdict": "yes"}),
    "other type": lambda: say({"correct": "true"}),
    "more fields": lambda: say({"correct": True, "score": 1.0}),
    "no text": lambda: Reply(b'{"choices": [{"message": {"content": null}}]}'),
    "no choice": lambda: Reply(b'{"choices": []}'),
    "no JSON": lambda: Reply(b"OK"),
}


def make_items(count: int) -> list[JudgeItem]:
    return [JudgeItem(f"k{n}", f"q{n}", f"a{n}", f"a{n}" if n % 3 else f"b{n}") for n in range(count)]


def judge(limits: JudgeLimits = QUICK, directory=None) -> Judge:
    return Judge(JudgeConfig("m", cache_directory=None if directory is None else str(directory), limits=limits))


def one_in_three_fails(seen, attempt):
    draw = random.Random(f"{seen.item['prediction']} {attempt}")
    return FAULTS[draw.choice(sorted(FAULTS))]() if draw.random() < 0.3 else honest(seen, attempt)


def test_a_faulty_endpoint_loses_no_row(serve, tmp_path):
    server = serve(one_in_three_fails)
    ours, items = judge(directory=tmp_path), make_items(200)
    verdicts = ours.judge(items)
    assert [(v.key, v.correct, v.reason) for v in verdicts] == [(f"k{n}", bool(n % 3), "") for n in range(200)]
    usage = ours.drain_usage()
    assert usage.requests == len(server.seen) == 200 + usage.failed_requests.total()
    assert usage.failed_requests.total() > 50
    kinds = {"timed_out", "rate_limited", "server_error", "connection", "malformed", "wrong_schema"}
    assert set(usage.failed_requests) == kinds
    assert usage.failed_items == {}


def test_rows_that_failed_say_why_and_only_they_are_asked_again(serve, tmp_path):
    server = serve(one_in_three_fails)
    once = JudgeLimits(concurrent_requests=8, request_seconds=3.0, retries=0)
    ours, items = judge(once, tmp_path), make_items(100)
    first = {verdict.key: verdict for verdict in ours.judge(items)}
    failed = {key for key, verdict in first.items() if verdict.correct is None}
    assert 15 < len(failed) < 50
    assert all((verdict.reason in FAILURES) == (key in failed) for key, verdict in first.items())
    assert ours.drain_usage().failed_items == Counter(first[key].reason for key in failed)
    server.script, asked = honest, len(server.seen)
    again = judge(once, tmp_path).judge(items)
    assert [(verdict.key, verdict.correct) for verdict in again] == [(f"k{n}", bool(n % 3)) for n in range(100)]
    assert sorted(server.asked()[asked:]) == sorted(item.prediction for item in items if item.key in failed)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("slow", "timed_out"),
        ("busy", "rate_limited"),
        ("gateway", "server_error"),
        ("hung up", "connection"),
        ("prose", "malformed"),
        ("no text", "malformed"),
        ("no JSON", "malformed"),
        ("other type", "wrong_schema"),
        ("more fields", "wrong_schema"),
    ],
)
def test_a_row_is_given_up_after_its_retries(serve, fault, kind):
    server = serve(lambda seen, attempt: FAULTS[fault]())
    limits = JudgeLimits(request_seconds=1.0, retries=2, wait_seconds=0.01)
    ours = judge(limits)
    (verdict,) = ours.judge(make_items(1))
    assert (verdict.correct, verdict.reason, len(server.seen)) == (None, kind, 3)
    assert ours.drain_usage().failed_requests == {kind: 3}


def test_a_truncated_reply_is_called_so(serve):
    serve(lambda seen, attempt: say('{"corr', finish="length"))
    assert judge(JudgeLimits(retries=0)).judge(make_items(1))[0].reason == "truncated"


def test_a_drip_of_bytes_does_not_extend_the_limit_of_a_request(serve):
    server = serve(lambda seen, attempt: say({"correct": True}))

    def drip(self, reply):
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        while not self.server.closing.wait(0.1):
            try:
                self.wfile.write(b" ")
            except ConnectionError:
                return

    server.RequestHandlerClass = type("Drip", (server.RequestHandlerClass,), {"_send": drip})
    start = time.monotonic()
    assert judge(JudgeLimits(request_seconds=0.5, retries=0)).judge(make_items(1))[0].reason == "timed_out"
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    "refusal", [reject(401), reject(402), reject(404), reject(429, code="insufficient_quota")], ids=lambda r: r.status
)
def test_what_must_fail_for_every_row_is_tried_once_and_no_row_is_lost(serve, refusal):
    server = serve(lambda seen, attempt: refusal)
    verdicts = judge(JudgeLimits(concurrent_requests=1)).judge(make_items(20))
    assert [(v.correct, v.reason) for v in verdicts] == [(None, "rejected")] * 20
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [400, 403, 422])
def test_a_row_that_the_server_refuses_is_not_asked_again_and_does_not_stop_the_others(serve, status):
    server = serve(lambda seen, attempt: reject(status) if seen.item["prediction"] == "a1" else honest(seen, attempt))
    verdicts = judge().judge(make_items(5))
    assert [v.correct for v in verdicts] == [False, None, True, False, True]
    assert verdicts[1].reason == "rejected"
    assert len(server.seen) == 5


def test_retry_after_is_waited_for_by_every_row(serve):
    def busy_at_first(seen, attempt):
        return reject(429, Retry_After="0.8") if len(server.seen) == 1 else honest(seen, attempt)

    server = serve(busy_at_first)
    limits = JudgeLimits(concurrent_requests=1, retries=0, longest_wait_seconds=2)
    assert [v.reason for v in judge(limits).judge(make_items(2))] == ["rate_limited", ""]
    assert server.seen[1].at_seconds - server.seen[0].at_seconds >= 0.8


def test_retries_wait_longer_each_time(serve):
    server = serve(lambda seen, attempt: reject(503))
    judge(JudgeLimits(retries=3, wait_seconds=0.2)).judge(make_items(1))
    times = [seen.at_seconds for seen in server.seen]
    waits = [later - sooner for sooner, later in zip(times, times[1:], strict=False)]
    assert all(wait >= least for wait, least in zip(waits, (0.1, 0.2, 0.4), strict=True))


def test_a_row_is_given_up_where_the_server_wants_to_be_left_alone_for_long(serve):
    server = serve(lambda seen, attempt: reject(429, Retry_After="3600"))
    limits = JudgeLimits(concurrent_requests=1, longest_wait_seconds=0.1)
    assert judge(limits).judge(make_items(1))[0].reason == "rate_limited"
    assert len(server.seen) == 1


def test_retry_after_may_be_a_date():
    assert 50 < read_retry_after(time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 60))) <= 60
    assert read_retry_after("nan") == 0.0


def test_the_total_limit_ends_everything_and_keeps_what_is_there(serve, tmp_path):
    serve(lambda seen, attempt: honest(seen, attempt) if seen.item["question"] in {"q0", "q1"} else say("", 60.0))
    limits = JudgeLimits(concurrent_requests=4, request_seconds=60, total_seconds=3.0)
    start = time.monotonic()
    verdicts = judge(limits, tmp_path).judge(make_items(12))
    assert time.monotonic() - start < 20
    assert [v.correct for v in verdicts] == [False, True, *[None] * 10]
    assert {v.reason for v in verdicts[2:]} == {"out_of_time"}
    assert not [thread for thread in threading.enumerate() if thread.name == "visplay-judge"]


def test_an_interrupt_ends_everything_and_keeps_what_is_there(serve, tmp_path):
    class Stopped(Exception):
        pass

    def interrupt(*_):
        raise Stopped

    def script(seen, attempt):
        if seen.item["question"] == "q0":
            return honest(seen, attempt)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        return say("", delay_seconds=60.0)

    server = serve(script)
    previous = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(Stopped):
            judge(JudgeLimits(concurrent_requests=1, request_seconds=60), tmp_path).judge(make_items(3))
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert not [thread for thread in threading.enumerate() if thread.name == "visplay-judge"]
    server.script = honest
    verdicts = judge(QUICK, tmp_path).judge(make_items(3))
    assert [(v.correct, v.cached) for v in verdicts] == [(False, True), (True, False), (True, False)]


def test_a_disk_that_fails_is_an_error_and_leaves_nothing(serve, tmp_path):
    serve()
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(OSError, match="file"):
        judge(directory=tmp_path / "file" / "cache").judge(make_items(20))
    assert not [thread for thread in threading.enumerate() if thread.name == "visplay-judge"]


def test_the_key_is_sent_and_neither_logged_nor_kept(serve, key, caplog, tmp_path):
    def script(seen, attempt):
        echo = reject(400, message=f"key {seen.authorization} may not ask this")
        return echo if seen.item["question"] == "q0" else honest(seen, attempt)

    server = serve(script)
    caplog.set_level(logging.DEBUG)
    ours = judge(directory=tmp_path)
    verdicts = ours.judge(make_items(4))
    assert all(seen.authorization == f"Bearer {key}" for seen in server.seen)
    assert "may not ask this" in caplog.text
    assert "***" in caplog.text
    assert key not in caplog.text + repr(verdicts) + repr(ours.drain_usage()) + repr(vars(ours))
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*"))
    assert len([json.loads(line) for line in stored.splitlines()]) == 3
    assert key.encode() not in stored
