"""A command that continues its run: in the run's own directory and log, with its settings, from the last whole one."""

import logging
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.kills import curves, differences
from visplay.cli import run
from visplay.commands.continuing import MAY_CHANGE
from visplay.modules import GRPOModule
from visplay.tiny import BASE

KEPT = ("state_dict", "optimizer_states", "learners", "global_step", "epoch")
TINY = Path(__file__).parents[1] / "configs" / "tiny.yaml"
OPTIONS = [
    *("--data.n_images=6", "--data.heldout_questions=4", "--data.heldout_votes=2", "--self_play.iterations=1"),
    *(f"--model.{role}.grpo={{steps: 2, prompts_per_step: 2}}" for role in ("questioner", "reasoner")),
    "--self_play.curation={images: 4, questions_per_image: 2, low: 0, high: 1, gates: [], second_view: null}",
    "--step_checkpoint={every_n_steps: 1, keep: 99}",
]


def fit(directory, *arguments):
    torch.set_num_threads(1)  # another number adds up in another order
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setattr(sys, "argv", ["visplay"])
        try:
            run(["fit", f"--config={TINY}", f"--model.vlm.path={BASE}", *OPTIONS, *arguments])
        finally:
            torch.use_deterministic_algorithms(False)
    return directory / "runs" / "tiny" / "version_0"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody stopped; without a checkpoint, auto_resume starts one."""
    return fit(tmp_path_factory.mktemp("whole"), "--auto_resume")


@pytest.fixture
def killed(whole, tmp_path):
    """The same, killed in the Reasoner's phase: it has checkpoints to there, half of one, and a log that goes on."""
    shutil.copytree(whole.parents[1], tmp_path / "runs")
    killed = tmp_path / "runs" / "tiny" / "version_0"
    kept = ["phase-00-step-0001", "phase-00", "phase-01-step-0001"]
    for path in (killed / "checkpoints").iterdir():
        if path.name.partition(".")[0] not in kept:
            path.unlink()
    for number, name in enumerate(kept):
        os.utime(killed / "checkpoints" / f"{name}.ckpt", (number, number))
    (killed / "checkpoints" / ".phase-01.ckpt.999-0a1b2c3d.tmp").write_bytes(b"half")
    return killed


def state(version):
    checkpoint = torch.load(version / "checkpoints" / "phase-01.ckpt", weights_only=True)
    loop = {name: value for name, value in checkpoint["callbacks"]["SelfPlay"].items() if name != "dataset"}
    return {"loop": loop} | {name: checkpoint[name] for name in KEPT}


def check(version, whole):
    assert [path.name for path in version.parent.iterdir()] == ["version_0"]
    assert differences(curves(version), curves(whole)) == []
    assert differences(state(version), state(whole)) == []
    assert (version / "summary.json").read_bytes() == (whole / "summary.json").read_bytes()


@pytest.mark.parametrize("how", ["--ckpt_path=last", "--auto_resume"])
def test_a_run_goes_on_as_itself_and_removes_what_a_kill_left_unfinished(whole, killed, how):
    check(fit(killed.parents[2], how), whole)
    assert not list(killed.rglob(".*.tmp"))


def test_a_damaged_checkpoint_is_passed_over(whole, killed, caplog):
    newest = killed / "checkpoints" / "phase-01-step-0001.ckpt"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 255
    newest.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        version = fit(killed.parents[2], "--ckpt_path=last")
    assert "phase-01-step-0001.ckpt' is damaged: its SHA-256 is " in caplog.text
    check(version, whole)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-9])])
def test_a_data_set_that_is_damaged_is_made_again(whole, killed, caplog, damage):
    damage(killed / "generated" / "iteration-1.parquet")
    with caplog.at_level(logging.WARNING):
        version = fit(killed.parents[2], "--auto_resume")
    assert "the data set that the phase was learning from" in caplog.text
    check(version, whole)


def test_a_run_without_a_checkpoint_begins_anew_in_its_directory(whole, tmp_path, monkeypatch):
    answered = []

    def note(batch, killed):
        if killed and len(answered) == 2:
            raise RuntimeError("killed")
        answered.extend([batch.benchmark] if batch.examples else [])  # one that has nothing left has an empty batch

    def validate(killed):
        step = GRPOModule.validation_step
        with monkeypatch.context() as patch:
            patch.setattr(
                GRPOModule, "validation_step", lambda self, b, *rest: (note(b, killed), step(self, b, *rest))[1]
            )
            return fit(tmp_path, "--auto_resume", "--data.validation_batch_size=2")

    with pytest.raises(RuntimeError, match="killed"):
        validate(killed=True)
    version = validate(killed=False)
    check(version, whole)
    lines = (version / "evaluation" / "iteration-0" / "heldout-rank0.jsonl").read_text().splitlines()
    assert len(lines) == len(set(lines)) == 4
    assert answered[: len(answered) // 2] == answered[len(answered) // 2 :], "each batch of the base was answered once"
    with pytest.raises(SystemExit, match="2"):
        fit(tmp_path, "--auto_resume", "--model.seed=3")


def test_all_checkpoints_are_damaged(killed, capsys):
    for path in (killed / "checkpoints").glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(SystemExit, match="2"):
        fit(killed.parents[2], "--auto_resume")  # nothing is started over in silence
    assert "is no checkpoint of a run, or not a whole one" in capsys.readouterr().err


def test_another_setting_is_rejected_with_both_values(killed, capsys):
    with pytest.raises(SystemExit, match="2"):
        fit(killed.parents[2], "--ckpt_path=last", "--model.reasoner.grpo.group_size=6", "--model.seed=3")
    error = capsys.readouterr().err.splitlines()[-1]
    assert "model.init_args.reasoner.init_args.grpo.group_size: 8 before, 6 now" in error
    assert "model.init_args.seed: 0 before, 3 now" in error


def test_settings_that_may_change(whole, killed, caplog):
    changed = ["--self_play.iterations=2", "--model.reasoner.grpo.tokens_per_micro_batch=4096"]
    with caplog.at_level(logging.WARNING):
        version = fit(killed.parents[2], "--ckpt_path=last", *changed, "--rollout.max_sequences=9")
    assert (version / "checkpoints" / "phase-03.ckpt").is_file()
    assert "rollout: another engine, or another setting of it, may draw other samples" in caplog.text
    documented = (TINY.parents[1] / "docs" / "reliability.md").read_text()
    assert [name for name in MAY_CHANGE if f"`{name}`" not in documented] == []


def test_a_file_starts_a_new_run_from_there(whole, killed):
    path = killed / "checkpoints" / "phase-01-step-0001.ckpt"
    fit(killed.parents[2], f"--ckpt_path={path}", "--model.reasoner.grpo.group_size=6")
    assert (killed.with_name("version_1") / "checkpoints" / "phase-01.ckpt").is_file()


def test_auto_resume_looks_itself(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        fit(tmp_path, "--auto_resume", "--ckpt_path=some.ckpt")
    assert "auto_resume: looks for the checkpoint itself, got ckpt_path='some.ckpt'" in capsys.readouterr().err
