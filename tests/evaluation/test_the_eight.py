"""The eight benchmarks in their own schemas, from a stand-in for the Hub to the table, through the small model."""

import json
import sys
from pathlib import Path

import pytest

from data.benchmark_tables import CONFIGS, read
from judge_server import say
from visplay.cli import run
from visplay.evaluation import AnswerStore
from visplay.evaluation.judging import read_verdicts

EIGHT = ["mmmu", "mm_vet", "realworldqa", "visnumbench", "mathverse", "mathvision", "hallusionbench", "mmstar"]
PLAIN = "{system: null, user: '{question}'}"  # the small model knows no other prompt


@pytest.fixture
def evaluate(prepared, monkeypatch, tmp_path):
    monkeypatch.chdir(CONFIGS.parent)
    monkeypatch.setattr(sys, "argv", ["visplay"])

    def evaluate(*further):
        options = [
            f"--evaluation.directory={tmp_path / 'evaluation'}",
            f"--data.cache={tmp_path / 'images'}",
            "--data.n_images=2",
            "--data.heldout_questions=4",
            "--data.heldout_votes=2",
            f"--trainer.logger.save_dir={tmp_path / 'runs'}",
            "--evaluation.answering.max_new_tokens=48",
        ]
        run(["test", "--config=configs/tiny.yaml", *prepared[0], *further, *options])
        (directory,) = (tmp_path / "evaluation").glob("base-*")
        return AnswerStore(directory), json.loads((directory / "scores.json").read_text())["scores"]

    return evaluate


def test_every_row_is_answered_or_skipped_and_scored(evaluate, suite, capsys):
    store, scores = evaluate()
    asked = {example.key: example for example in read(suite.open()).values()}
    answered = {item.key: item for benchmark in EIGHT for item in store.items(benchmark)}
    assert answered.keys() == asked.keys()
    assert all((item.problem, item.gold) == (asked[key].problem, asked[key].answer) for key, item in answered.items())
    batches = [part for benchmark in EIGHT for part in store.read(benchmark)]
    skipped = {key: reason for part in batches for key, reason in part.skipped.items()}
    assert answered.keys() | skipped.keys() == {key for benchmark in suite.open() for key in benchmark.keys}
    assert skipped["mm_vet/p5"] == "no image"
    for benchmark in EIGHT:
        items = [item for key, item in answered.items() if item.benchmark == benchmark]
        metrics, counts = scores[benchmark]["metrics"], scores[benchmark]["counts"]
        assert metrics["rule_accuracy"]["value"] == pytest.approx(sum(r.greedy.correct for r in items) / len(items))
        assert counts["items"] == len(items)
        assert counts["skipped"] == sum(key.startswith(f"{benchmark}/") for key in skipped)
    assert scores["mmmu"]["metrics"]["discipline/Art and Design"]["size"] == scores["mmmu"]["counts"]["items"]
    assert {"aAcc", "qAcc", "fAcc"} <= scores["hallusionbench"]["metrics"].keys()
    assert {"macro_average", "micro_average", "heldout"} <= scores.keys()
    shown = capsys.readouterr().out
    assert all(benchmark in shown for benchmark in EIGHT)
    assert "| mmmu |" in (store.directory / "scores.md").read_text()


def test_the_protocol_of_the_paper(evaluate, serve):
    """One image an item, a judge that sees no question, and a table under the judge's own name."""
    server = serve(lambda seen, attempt: say("1" if "zebra" in str(seen.body) else "0"))
    store, scores = evaluate("--config=configs/paper_protocol.yaml")
    judge = "glm-4-flash-250414-paper"
    assert "mmmu/validation_Art_1" not in {item.key for item in store.items("mmmu")}
    assert scores["mmmu"]["metrics"][f"judge_accuracy/{judge}"]["value"] == 0
    assert read_verdicts(store, judge, "mmstar").keys() == {item.key for item in store.items("mmstar")}
    problems = [item.problem for benchmark in EIGHT for item in store.items(benchmark)]
    assert server.seen
    assert not any(problem in str(seen.body) for seen in server.seen for problem in problems)
    assert {seen.body["temperature"] for seen in server.seen} == {0.6}
    assert Path(store.directory, "agreement.md").is_file()
