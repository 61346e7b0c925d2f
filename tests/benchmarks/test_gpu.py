import json
import sys
import time

import pytest

from benchmarks import gpu
from benchmarks.measure import Spread
from benchmarks.results import load
from benchmarks.tables import section_tables

WORDS = "--model tiny --device cpu --prompts 2 --group 2 --tokens 4 --votes 2 --step-prompts 3 --voted 1 --cubes 32"


def _run(monkeypatch, path, *words):
    monkeypatch.setattr(sys, "argv", ["gpu.py", *WORDS.split(), "--rounds", "1", *words, "--write", str(path)])
    gpu.main()
    return load(path)["sections"]["gpu"]


def test_every_part_runs_on_a_cpu_and_is_recorded_when_it_is_over(tmp_path, monkeypatch):
    recorded, record = [], gpu.record
    monkeypatch.setattr(gpu, "record", lambda *given: (record(*given), recorded.append(json.dumps(given[1])))[0])
    section = _run(monkeypatch, tmp_path / "results.json")
    assert section["command"] == f"python -m benchmarks.gpu {WORDS} --rounds 1 --write"
    assert [set(json.loads(each)["models"]["tiny"]) - {"shape"} for each in recorded] == [
        set(list(gpu.PARTS)[:done]) for done in range(1, len(gpu.PARTS) + 1)
    ]
    figures = section["figures"]["models"]["tiny"]
    assert not [part for part, found in figures.items() if "error" in found]
    assert figures["plan"].keys() >= {"planned_mib", "measured_mib", "ratio"}
    assert figures["updates"].keys() == {"packed", "packed, checkpointed", "fallback"}
    for row in figures["updates"].values():
        assert row["mfu"] > 0
        assert row["rounds"] == 1
        assert row["tokens_per_second"]["median"] > 0
    step = figures["step"]
    assert step["seconds"].keys() == {"rollout", "votes", "update", "rest"}
    learned = sum(step["seconds"][stage]["median"] for stage in ("rollout", "update", "rest"))
    expected = 3600 / (learned / 3 + step["seconds"]["votes"]["median"])
    assert step["images_per_hour"]["median"] == pytest.approx(expected, rel=1e-3)
    assert step["tokens_per_second"]["median"] * learned > 3 * 2 * (4 + 4)  # tokens of the image, for each sequence
    assert all(figures["launches"][name]["kernels"] > 100 for name in ("update", "sampling"))
    assert figures["rollout"].keys() == {"TransformersRollout", "generate"}
    assert section["keys"] == []  # they are of a GPU
    assert all(goal["met"] == "not measured" for goal in section["figures"]["goals"].values())
    assert "| packed, checkpointed |" in section_tables("gpu", section["figures"])


def test_a_part_that_fails_or_takes_too_long_leaves_the_others_and_what_it_found(tmp_path, monkeypatch):
    def slow(subject, limit, found):
        found["begun"] = 1
        time.sleep(30)

    def broken(subject, limit, found):
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(gpu.PARTS, "plan", slow)
    monkeypatch.setitem(gpu.LIMITS, "plan", 1.1)
    monkeypatch.setitem(gpu.PARTS, "updates", broken)
    words = [word for part in ("plan", "peak", "updates") for word in ("--part", part)]
    with pytest.raises(SystemExit):
        _run(monkeypatch, tmp_path / "results.json", "--seconds", "600", *words)
    figures = load(tmp_path / "results.json")["sections"]["gpu"]["figures"]
    model = figures["models"]["tiny"]
    assert model["plan"] == {"begun": 1, "error": "TimeoutError: longer than 1 s"}
    assert model["updates"] == {"error": "RuntimeError: no such kernel"}
    assert model["peak"]["32 x 32 x 32"] > 0
    assert "updates: RuntimeError: no such kernel." in section_tables("gpu", figures)


def test_what_no_time_is_left_for_is_not_begun(tmp_path):
    options = gpu.parse(gpu._make_parser(), WORDS.split())
    subject = gpu.Subject("tiny", options, tmp_path)
    gpu.measure_part(subject, "updates", end=time.perf_counter())
    assert subject.figures["updates"] == {"error": "no time was left"}


def test_the_goals_are_those_of_3b_and_of_the_worst_plan():
    updates = {"packed": {"mfu": 0.52}, "packed, checkpointed": {"error": "out of memory"}, "error": "TimeoutError"}
    models = {
        "3b": {
            "updates": updates,
            "step": {"tokens_per_second": Spread(7000.0, 6900.0, 7100.0)},
            "plan": {"ratio": 1.1},
        },
        "7b": {"updates": {"packed": {"mfu": 0.9}}, "plan": {"ratio": 0.8}, "step": {"error": "TimeoutError"}},
    }
    keys = gpu.headline(models)
    assert keys == {
        "gpu_update_mfu": 0.52,
        "gpu_step_tokens_per_second": 7000.0,
        "gpu_plan_memory_error": pytest.approx(0.2),
    }
    assert [row["met"] for row in gpu.goals(keys).values()] == ["yes", "**no**", "**no**"]
    assert gpu.headline({"3b": {"plan": {"error": "out of memory"}}}) == {}


def test_outcomes_of_tests_are_counted(tmp_path, monkeypatch):
    tests = tmp_path / "test_three.py"
    tests.write_text("import pytest\n@pytest.mark.parametrize('x', [1, 2, 0])\ndef test_cpu(x):\n    assert x\n")
    monkeypatch.setattr(gpu, "TESTS", str(tests))
    found = gpu.run_tests("cpu", 60)
    assert {name: found[name] for name in ("tests", "failures", "errors", "skipped", "failed")} == {
        "tests": 3,
        "failures": 1,
        "errors": 0,
        "skipped": 0,
        "failed": ["test_cpu[0]"],
    }
    assert gpu.run_tests("cpu", 0.01) == {"error": "longer than 0 s"}


def test_paths_are_what_they_say(base):
    reasons = {}
    for path in gpu.PATHS:
        with gpu.on_path(base, path):
            reasons[path] = base.why_not_packed(), base.model.model.language_model.gradient_checkpointing
    base.text_model.set_attn_implementation("grouped_sdpa")
    assert reasons["packed"] == (None, False)
    assert reasons["packed, checkpointed"] == (None, True)
    assert "sdpa" in reasons["fallback"][0]
