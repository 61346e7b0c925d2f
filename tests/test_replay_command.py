"""``visplay fit --record…`` and ``visplay replay``: from the command line to the exit code."""

import shutil
import sys

import pytest
import torch

from config_runs import DIRECTORY
from visplay.__main__ import main
from visplay.cli import run
from visplay.tiny import BASE

OPTIONS = [
    *(f"--config={DIRECTORY / 'tiny.yaml'}", f"--model.vlm.path={BASE}", "--self_play.iterations=1"),
    *("--data.n_images=6", "--data.heldout_questions=4", "--data.heldout_votes=2"),
    *(f"--model.{role}.grpo={{steps: 2, prompts_per_step: 2}}" for role in ("questioner", "reasoner")),
    "--self_play.curation={images: 4, questions_per_image: 2, low: 0, high: 1, gates: [], second_view: null}",
]


def fit(directory, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setattr(sys, "argv", ["visplay"])
        try:
            run(["fit", *OPTIONS, *arguments])
        finally:
            torch.use_deterministic_algorithms(False)
    return directory / "runs" / "tiny" / "version_0"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("whole"), "--record.steps=[2]")


@pytest.fixture
def replay(capsys):
    """What the command prints, or the words and the code that it ends with."""

    def replay(*arguments):
        try:
            main(["replay", *map(str, arguments)])
        except SystemExit as end:
            return capsys.readouterr().out, end.code
        finally:
            torch.use_deterministic_algorithms(False)
        return capsys.readouterr().out, 0

    return replay


@pytest.mark.parametrize("phase", [0, 1])
@pytest.mark.parametrize("how", [[], ["--judge-only"]])
def test_a_step_of_a_run(whole, replay, phase, how):
    out, code = replay(whole, "--step", 2, "--phase", phase, *how)
    assert code == 0
    assert f"{'questioner' if phase == 0 else 'reasoner'}, iteration 1, step 2" in out
    assert ("weights and optimizer after it" in out) == (how == [])


def test_a_record_alone_is_enough(whole, replay, tmp_path):
    record = shutil.copytree(whole / "records" / "phase-00-step-0002", tmp_path / "sent")
    assert replay(record, "--judge-only")[1] == 0
    judged = record / "judged.jsonl"
    judged.write_text(judged.read_text().replace('"completion": 3, "reward": ', '"completion": 3, "reward": 1'))
    out, code = replay(record, "--judge-only")
    assert code == 1
    assert "not as they were written: judged.jsonl" in out
    assert "rewards and votes: " in out


def test_what_cannot_be_replayed(whole, replay, tmp_path):
    assert "is no record, and no directory of a run with records" in replay(tmp_path, "--step", 1)[1]
    assert "step: say which one; " in replay(whole)[1]
    assert "step: step 3 was not recorded; " in replay(whole, "--step", 3)[1]
    assert "step: step 2 of phase 7 was not recorded; " in replay(whole, "--step", 2, "--phase", 7)[1]
    assert "phase: step 2 was recorded in several, give one: phase-00-step-0002, " in replay(whole, "--step", 2)[1]


def test_a_model_that_is_gone(whole, replay, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(f"model: {{init_args: {{vlm: {{init_args: {{path: {tmp_path}/gone}}}}}}}}\n")
    for how in ([], ["--judge-only"]):
        _, code = replay(whole, "--step", 2, "--phase", 0, "--config", other, *how)
        assert f"error: path: no processor could be loaded from '{tmp_path}/gone'" in code


def test_a_run_of_python_has_no_configuration(whole, replay, tmp_path):
    record = shutil.copytree(whole / "records" / "phase-00-step-0002", tmp_path / "sent")
    (record / "config.yaml").unlink()
    assert "config: the record of a run that was started in Python has none" in replay(record)[1]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--record.steps=[0]", "error: record.steps: [0] must be 'all', or steps of a phase, counted from 1"),
        (
            "--record.phases=[-1]",
            "error: record.phases: [-1] must be phases of the run, counted from 0, or null for all",
        ),
        ("--record.steps=some", "record.steps: need one of 'all' or Sequence, got 'some'"),
        ("--record=all", "record"),
    ],
)
def test_bad_values(tmp_path, capsys, argument, message):
    with pytest.raises(SystemExit, match="2"):
        fit(tmp_path, argument)
    assert message in capsys.readouterr().err
