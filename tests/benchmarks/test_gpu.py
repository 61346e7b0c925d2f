import json
import sys

from benchmarks import gpu


def test_the_whole_path_runs_on_a_cpu(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    words = "--model tiny --device cpu --prompts 2 --group 2 --tokens 4 --cubes 32 --rounds 1 --write"
    monkeypatch.setattr(sys, "argv", ["gpu.py", *words.split(), str(path)])
    gpu.main()
    section = json.loads(path.read_text())["sections"]["gpu"]
    assert section["command"] == f"python -m benchmarks.gpu {words}"
    figures = section["figures"]["models"]["tiny"]
    assert figures["updates"].keys() == {"packed", "packed, checkpointed", "fallback"}
    for row in figures["updates"].values():
        assert row["mfu"] > 0
        assert row["tokens_per_second"]["median"] > 0
    assert figures["rollout"].keys() == {"TransformersRollout", "generate"}


def test_paths_are_what_they_say(base):
    reasons = {}
    for path in gpu.PATHS:
        with gpu.on_path(base, path):
            reasons[path] = base.why_not_packed(), base.model.model.language_model.gradient_checkpointing
    base.model.set_attn_implementation("grouped_sdpa")
    assert reasons["packed"] == (None, False)
    assert reasons["packed, checkpointed"] == (None, True)
    assert "sdpa" in reasons["fallback"][0]
