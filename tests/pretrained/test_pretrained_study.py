"""The arms of examples/pretrained through their own commands, with a tiny Llama and a scripted engine."""

import json
import sys

import pytest

from examples.pretrained.data import arithmetic_family
from examples.study.logs import read_rows
from examples.study.plan import read_study
from text_models import llama
from visplay.__main__ import main

STUDY = read_study("examples/pretrained/study.yaml")


@pytest.mark.parametrize("arm", STUDY.arms, ids=lambda arm: arm.name)
def test_an_arm(arm, tmp_path, monkeypatch):
    llama(tmp_path / "model")
    monkeypatch.setattr(sys, "argv", ["visplay"])
    small = [
        f"--model.vlm.path={tmp_path / 'model'}",
        f"--trainer.default_root_dir={tmp_path / 'root'}",
        "--rollout={class_path: helpers.Scripted, init_args: {script: pretrained.script.say}}",
        "--self_play.curation={images: 8, images_per_batch: 8}",
        "--data.votes=4",
    ]
    for role in ("questioner", "reasoner"):
        grpo = f"--model.{role}.grpo"
        small += [f"{grpo}.steps=1", f"{grpo}.prompts_per_step=2", f"{grpo}.mismatch.stop=false"]
    main([*STUDY.command(arm, 0), *small])
    version = tmp_path / "root" / "r_zero" / "version_0"
    base, first = read_rows(version, arithmetic_family)
    assert base["heldout_greedy"] == first["heldout_greedy"] == 1.0
    assert base["heldout_sampled"] == pytest.approx(3 / 4)
    assert base["accuracy/sum"] == pytest.approx(3 / 4)
    right = first["silver_accuracy"]  # three of nine votes are wrong, the winner is not
    assert 0 < right < 1 if arm.name == "random-answer" else right == 1
    summary = json.loads((version / "summary.json").read_text())
    assert summary[1]["kept"] > 0


def test_every_arm_has_what_is_common_to_all():
    commands = {arm.name: STUDY.command(arm, 0) for arm in STUDY.arms}
    plain = {part for part in commands["slower"] if "default_root_dir" not in part}
    for arm in STUDY.arms:
        assert plain <= {*commands[arm.name]}
