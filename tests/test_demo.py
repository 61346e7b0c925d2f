"""The command of ``make demo``, smaller: through the command line, the real engine and the embedded base."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import sklearn
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from visplay.cli import run
from visplay.data.generated import read_examples

ROOT = Path(__file__).parent.parent
SMALL = [
    "--self_play.iterations=1",
    "--self_play.curation.images=12",
    "--model.questioner.grpo.steps=2",
    "--model.questioner.grpo.prompts_per_step=4",
    "--model.reasoner.grpo.steps=3",
    "--model.reasoner.grpo.prompts_per_step=8",
    "--data.heldout_votes=2",
    "--data.heldout_questions=16",
    "--data.n_images=60",
]
COLUMNS = [
    "iteration",
    "heldout_greedy",
    "heldout_sampled",
    "heldout_majority",
    "compositional_greedy",
    "hallucination_rate",
    "valid_fraction",
    "mean_confidence",
    "kept",
    "silver_accuracy",
]


@pytest.fixture
def fit(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["visplay"])

    def fit(name, *arguments, configs=("tiny",), small=SMALL):
        run(
            [
                "fit",
                *(f"--config=configs/{config}.yaml" for config in configs),
                f"--trainer.logger.save_dir={tmp_path / name}",
                f"--data.cache={tmp_path / 'images'}",
                *small,
                *arguments,
            ]
        )
        return tmp_path / name / configs[0] / "version_0"

    return fit


def test_demo(fit, capsys):
    directory = fit("a")
    rows = json.loads((directory / "summary.json").read_text())
    assert [list(row) for row in rows] == [COLUMNS, COLUMNS]
    base, first = rows
    assert base["iteration"] == 0
    assert all(base[name] is None for name in COLUMNS[6:])
    assert first["iteration"] == 1
    assert all(0 <= first[name] <= 1 for name in COLUMNS[1:] if name != "kept")
    examples = read_examples(directory / "generated" / "iteration-1.parquet")
    assert first["kept"] == len(examples) > 0
    assert sorted(p.name for p in (directory / "checkpoints").glob("*.ckpt")) == ["phase-00.ckpt", "phase-01.ckpt"]
    out = capsys.readouterr().out
    assert "Self-play, iteration by iteration" in out
    assert str(directory) in out.replace("\n", "")

    events = EventAccumulator(str(directory))
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    for role in ("questioner", "reasoner"):
        assert {
            f"{role}/{name}" for name in ("reward", "policy_loss", "kl", "entropy", "grad_norm", "logp_gap_max")
        } <= scalars
        panels = {f"{role}/samples/group-1-{which}-reward" for which in ("lowest", "highest")}
        assert panels <= set(events.Tags()["images"])
    assert [event.step for event in events.Scalars("reasoner/reward")] == [1, 2, 3]
    assert max(event.value for event in events.Scalars("reasoner/logp_gap_max")) < 1e-4
    assert {"questioner/votes_seconds", "reasoner/graded_different", "curation/kept_fraction"} <= scalars
    assert "curation/confidence" in events.Tags()["histograms"]

    phases = [json.loads(line) for line in (directory / "phases.jsonl").read_text().splitlines()]
    for phase, completions in zip(phases, (4 * 8, 8 * 8), strict=True):  # of a step
        means = [event.value for event in events.Scalars(f"{phase['role']}/completion_tokens")]
        assert phase["tokens"]["rollout"] == phase["tokens"]["update"] == round(sum(means) * completions)
    (votes,), (questions,) = (events.Scalars(f"curation/{stage}_tokens") for stage in ("votes", "questions"))
    assert phases[1]["tokens"].items() >= {"votes": votes.value, "questions": questions.value}.items()
    assert phases[0]["tokens"]["votes"] == sum(event.value for event in events.Scalars("questioner/votes_tokens"))

    again = fit("b", f"--ckpt_path={directory / 'checkpoints' / 'phase-00.ckpt'}")
    assert json.loads((again / "summary.json").read_text()) == rows


def _scalars(directory):
    events = EventAccumulator(str(directory))
    events.Reload()
    return events.Tags()["scalars"]


ALONE = ["--data.n_images=60", "--model.grpo.steps=2"]


def test_every_metric_is_documented(fit):
    """With all that can be switched on; val/ measures are named by their last part."""
    documented = set(re.findall(r"`([a-z_0-9@]+)`", (ROOT / "docs/metrics.md").read_text()))
    logged = _scalars(fit("all", "--trainer.callbacks+=visplay.callbacks.Diagnostics"))
    names = {tag.split("/")[1] for tag in logged if "/" in tag and not tag.startswith("val/")}
    assert {"kl_to_base", "answerable_without_image_fraction", "graded_equal_text"} <= names
    assert names <= documented, names - documented
    measures = {tag.split("/")[-1] for tag in logged if tag.startswith("val/")}
    assert {"rule_accuracy", "pass@1", "majority"} <= measures <= documented


def test_the_reasoner_alone_learns_from_labels(fit):
    data = ["--data.heldout_questions=96", "--data.heldout_votes=4", "--data.n_images=200", "--self_play.iterations=2"]
    directory = fit("reasoner", *data, "--model.grpo.steps=5", configs=("tiny_labelled",), small=())
    rows = json.loads((directory / "summary.json").read_text())
    assert [row["iteration"] for row in rows] == [0, 1, 2]
    assert rows[2]["heldout_sampled"] > rows[0]["heldout_sampled"] + 0.08
    assert {"reasoner/reward", "val/heldout/rule_accuracy"} <= set(_scalars(directory))


def test_the_questioner_alone(fit):
    scalars = _scalars(fit("questioner", configs=("tiny_questioner",), small=ALONE))
    assert {"questioner/reward", "questioner/vote_margin", "questioner/own_answer_agreement"} <= set(scalars)


def test_the_photographs_that_scikit_learn_ships(fit, tmp_path):
    photographs = tmp_path / "photographs"
    shutil.copytree(Path(sklearn.__file__).parent / "datasets" / "images", photographs)
    (photographs / "broken.jpg").write_bytes(b"")
    directory = fit("c", f"--data.images={photographs}", "--self_play.curation={images: 8, gates: []}")
    rows = json.loads((directory / "summary.json").read_text())
    assert rows[1]["silver_accuracy"] is None
    assert rows[1]["kept"] > 0
    kept = read_examples(directory / "generated" / "iteration-1.parquet")
    assert {example.image_id for example in kept} <= {"china.jpg", "flower.jpg"}
