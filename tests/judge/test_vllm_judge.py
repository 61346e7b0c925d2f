"""Against vLLM's server with the embedded base: no judge, so its verdicts are noise, but all else is as it will be."""

from collections import Counter

import pytest

from examples.serve_with_vllm import ask
from visplay.judge import Judge, JudgeConfig, JudgeItem, JudgeLimits
from visplay.tiny.self_play_images import write_images
from vllm_server import serve_base

MODEL = "a-judge"
LIMITS = JudgeLimits(concurrent_requests=4, retries=60, wait_seconds=0)
PLAIN = [JudgeItem(f"plain {n}", "How many red circles are there?", "3", f"There are {n}.") for n in range(6)]
GRADED = [
    JudgeItem("graded", "What is this?", "a red circle", "A circle that is red.", graded=True),
    JudgeItem("graded too", "How many apples?", "7", "7", graded=True),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory, key):
    options = ["--served-model-name", MODEL, "--limit-mm-per-prompt", '{"image": 1, "video": 0}']
    # A model this weak writes spaces until max_tokens where the schema lets it.
    options += ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']
    with serve_base(tmp_path_factory.mktemp("server"), *options, environment={"VLLM_API_KEY": key}) as address:
        yield address


@pytest.fixture(autouse=True)
def _environment(url, key, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", f"{url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", key)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def judge(model=MODEL, limits=LIMITS, directory=None) -> Judge:
    return Judge(
        JudgeConfig(model, cache_directory=None if directory is None else str(directory), limits=limits, max_tokens=32)
    )


def test_the_schema_holds_and_a_verdict_takes_one_request():
    ours = judge(limits=JudgeLimits(retries=0))
    verdicts = ours.judge(PLAIN)
    assert [verdict.key for verdict in verdicts] == [item.key for item in PLAIN]
    assert all(type(verdict.correct) is bool and verdict.score is None for verdict in verdicts)
    usage = ours.drain_usage()
    assert (usage.items, usage.requests, usage.unreported_requests) == (6, 6, 0)
    assert usage.failed_requests == usage.failed_items == {}
    assert usage.prompt_tokens > 6 * 500
    assert 6 <= usage.completion_tokens <= 6 * 32


def test_rows_are_graded_and_what_is_known_is_not_asked_again(tmp_path):
    ours = judge(directory=tmp_path)
    verdicts = ours.judge([*GRADED, *PLAIN])
    assert all(type(verdict.correct) is bool for verdict in verdicts)
    grades = [verdict.score for verdict in verdicts[:2]]
    assert all(grade in [step / 10 for step in range(11)] for grade in grades)
    assert set(ours.drain_usage().failed_requests) <= {"wrong_schema"}  # "correct" with a grade of 0, or the reverse
    later = judge(directory=tmp_path)
    known = [(verdict.correct, verdict.score, verdict.cached) for verdict in later.judge([*GRADED, *PLAIN])]
    assert known == [(verdict.correct, verdict.score, True) for verdict in verdicts]
    usage = later.drain_usage()
    assert (usage.cached_items, usage.requests, usage.prompt_tokens) == (8, 0, 0)


def test_a_row_longer_than_the_context_is_refused_and_the_others_are_judged():
    ours = judge()
    long, *others = ours.judge([JudgeItem("long", "Why? " * 2000, "3", "3"), *PLAIN])
    assert (long.correct, long.reason) == (None, "rejected")
    assert all(type(verdict.correct) is bool for verdict in others)
    assert ours.drain_usage().failed_requests == {"rejected": 1}


@pytest.mark.parametrize("wrong", ["model", "key"])
def test_a_wrong_name_or_key_is_refused_once(wrong, monkeypatch):
    if wrong == "key":
        monkeypatch.setenv("OPENAI_API_KEY", "another")
    ours = judge("another" if wrong == "model" else MODEL, JudgeLimits(concurrent_requests=1))
    assert Counter(verdict.reason for verdict in ours.judge(PLAIN)) == {"rejected": 6}
    assert ours.drain_usage().requests == 1


def test_the_example_asks_a_served_reasoner_about_an_image(url, key, tmp_path):
    (image,) = write_images(tmp_path / "images", 1, seed=0).glob("*.png")
    text, answer = ask(url, image, "How many shapes are there?", key)
    assert answer is not None
    assert f"\\boxed{{{answer}}}" in text
