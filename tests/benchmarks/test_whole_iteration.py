import json

import pytest

pytest.importorskip("trl", reason="TRL is not installed; it comes with the extra bench")

from benchmarks.iteration_workloads import Amounts, write_fixed
from benchmarks.tables import section_tables
from benchmarks.trl_iteration import read
from benchmarks.whole_iteration import OURS, STAGES, TRL, measure_alone
from benchmarks.workload import Size

AMOUNTS = Amounts(Size(prompts=2, group=2, tokens=4, side=56), steps=1, images=1, votes=3, validated=2)


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return write_fixed("tiny", AMOUNTS, tmp_path)


def test_both_ways_do_the_same_work(config):
    done = {way: measure_alone(way, str(config), "0") for way in (OURS, TRL)}
    asked = 2 * 2 + 1 * 2  # of the Questioner's step, and in curation
    answers = asked * 3 + 2 * 2 + 2 * 2 * (1 + 3)  # votes, the Reasoner's step, two validations
    for way, each in done.items():
        assert each["work"] == {
            "questioner": {"completions": asked, "tokens": asked * 4},
            "reasoner": {"completions": answers, "tokens": answers * 4},
        }, way
        assert each["versions"] == {"questioner": 1, "reasoner": 1}, way
        assert each["images"] == AMOUNTS.asked_images == 3, way
        assert each["accuracy"]["majority"]["size"] == 2, way
        stages = {name: each["seconds"][name] for name in STAGES.values()}
        assert all(seconds > 0 for seconds in stages.values()), way
        assert sum(stages.values()) + each["seconds"]["rest"] == pytest.approx(each["seconds"]["all stages"]), way
    json.dumps(done)


def test_a_completion_ends_with_the_first_token_that_stops_it(base):
    stop = base.stop_token_ids[-1]
    word = 5
    assert read(base, [word, stop, word, stop]).token_ids == (word, stop)
    assert read(base, [word, stop, word]).finished
    assert read(base, [word, word]).token_ids == (word, word)
    assert not read(base, [word, word]).finished


def test_the_table_has_ratios_and_accuracies():
    rows = {
        way: {"images_per_hour": hourly, "seconds": {"rest": rest}, "cpu_seconds": 2.0, "peak_mib": 500.0}
        for way, hourly, rest in (("ours", 400.0, 1.0), ("TRL", 100.0, 3.0))
    }
    score = {"greedy": {"value": 0.5, "low": 0.25, "high": 0.75, "size": 4}}
    work = {"rows": rows, "accuracy": {"ours": [score], "TRL": [score]}, "images": 3, "rounds": 1}
    shown = section_tables("whole_iteration", {"workloads": {"default": work}})
    assert "| images per hour | 400 | 100 | 0.25 |" in shown
    assert "| rest | 1 | 3 | 3 |" in shown
    assert "| greedy, round 1 | 50.0 [25.0, 75.0] | 50.0 [25.0, 75.0] |" in shown
