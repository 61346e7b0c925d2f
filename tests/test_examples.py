"""Each example that no other test runs, with settings that take seconds."""

import sys
from pathlib import Path

import pytest
import torch

from examples import evaluate, labelled, one_iteration, own_images, resume
from examples.own_gate import ShortAnswers
from visplay.callbacks import Candidate
from visplay.tiny.self_play_images import write_images
from visplay.types import Question, Vote

HELDOUT = ["--data.heldout_questions=8", "--data.heldout_votes=2"]
SHORT = [
    *HELDOUT,
    "--self_play.iterations=1",
    "--self_play.curation={images: 4, questions_per_image: 4, low: 0, high: 1, gates: [], second_view: null}",
    "--model.questioner.grpo={steps: 1, prompts_per_step: 2}",
    "--model.reasoner.grpo={steps: 1, prompts_per_step: 2}",
    "--model.reasoner.voting.votes=4",
]


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path):
    """No checkout is the working directory, as it need not be for a user."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["python"])
    yield
    torch.use_deterministic_algorithms(False)


def test_a_run_on_own_images_goes_on_and_is_evaluated(tmp_path):
    images = str(write_images(tmp_path / "images", 6, seed=0))
    run = own_images.main(images, *SHORT)
    names = ["phase-00.ckpt", "phase-01.ckpt"]
    assert [path.name for path in sorted(run.glob("checkpoints/phase-??.ckpt"))] == names
    assert resume.main(images, *SHORT, iterations=2) == run
    checkpoints = sorted(run.glob("checkpoints/phase-??.ckpt"))
    assert [path.name for path in checkpoints] == [*names, "phase-02.ckpt", "phase-03.ckpt"]
    compared = evaluate.main(str(checkpoints[-1]), *HELDOUT)
    assert compared.is_relative_to(Path("runs/evaluation"))
    assert compared.read_text().startswith("# reasoner (after) against base\n")
    assert "heldout" in compared.read_text()


def test_a_reasoner_learns_from_a_table(tmp_path):
    table = str(tmp_path / "table.parquet")
    steps = ["--self_play.iterations=1", "--model.grpo={steps: 1, prompts_per_step: 2}"]
    run = labelled.main(table, *steps, rows=4)
    assert [path.name for path in run.glob("checkpoints/phase-*.ckpt")] == ["phase-00.ckpt"]


def test_one_iteration_by_hand():
    asked, answered = one_iteration.main(n=2, g=4, k=4, steps=2)
    assert [len(asked), len(answered)] == [2, 2]
    assert all(0 < reward < 1 for reward in (*asked, *answered))


def _candidate(answer):
    return Candidate("image", Question("What?", "short answer", None), Vote(answer, 0.5, ((answer, 2),), 4, 4))


def test_a_gate_of_ones_own():
    candidates = [_candidate(answer) for answer in ("red", "a large red circle", "three red circles")]
    assert ShortAnswers().judge(candidates) == [None, "long", None]
    assert ShortAnswers(most_words=1).judge(candidates) == [None, "long", "long"]
