"""A study of two arms and two seeds through its command, killed once: what the page says is what the runs logged."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from examples.study.plan import read_study
from examples.study.runs import is_finished
from visplay.cli import instantiate

ROOT = Path(__file__).parent.parent
SMALL = {"steps": 1, "prompts_per_step": 2, "group_size": 4}
ARMS = [
    {
        "name": "visplay",
        "label": "VisPlay",
        "configs": ["configs/tiny.yaml"],
        "arguments": [
            *(f"--model.{role}.grpo={json.dumps(SMALL)}" for role in ("questioner", "reasoner")),
            "--self_play.curation={images: 4, images_per_batch: 4, low: 0, high: 1, gates: [], second_view: null}",
            "--data=examples.study.controls.RandomAnswer",
        ],
    },
    {
        "name": "labelled",
        "label": "True labels",
        "configs": ["configs/tiny_labelled.yaml"],
        "arguments": [f"--model.grpo={json.dumps(SMALL)}"],
    },
]


pytestmark = pytest.mark.timeout(600)  # six processes, which load all there is


@pytest.fixture
def command(tmp_path):
    shared = [f"--data.cache={tmp_path / 'images'}", "--data.n_images=8"]
    study = {
        "directory": str(tmp_path / "runs"),
        "seeds": [0, 1],
        "iterations": 1,
        "worlds": {"tiny": "examples.study.worlds.shapes_family"},
        "comparisons": [["visplay", "labelled"]],
        "arguments": [*shared, "--data.heldout_questions=8", "--data.heldout_votes=4"],
        "arms": ARMS,
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    return [sys.executable, "-m", "examples.study", str(tmp_path / "study.yaml"), f"--page={tmp_path / 'page.md'}"]


def start(command):
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)


def versions(root, seeds=(0, 1)):
    return {
        (arm["name"], seed): root / arm["name"] / str(seed) / Path(arm["configs"][0]).stem / "version_0"
        for arm in ARMS
        for seed in seeds
    }


def read(version):
    summary = json.loads((version / "summary.json").read_text())
    phases = [json.loads(line) for line in (version / "phases.jsonl").read_text().splitlines()]
    return summary, sum(sum(phase["tokens"].values()) for phase in phases)


@pytest.mark.parametrize("name", ["study", "choose"])
def test_every_arm_is_a_configuration(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    study = read_study(f"examples/study/{name}.yaml")
    for arm in study.arms:
        assert instantiate(study.command(arm, 7)[1:]).model.seed == 7


def test_a_study_that_is_killed_goes_on(command, tmp_path):
    killed, found = start(command), versions(tmp_path / "runs")
    first = found["visplay", 0]
    while not list(first.glob("checkpoints/*.ckpt")):  # with a second run under way
        assert killed.poll() is None, killed.stderr.read()
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "page.md").exists()

    study = read_study(tmp_path / "study.yaml")
    left = sum(not is_finished(study, arm, seed) for arm in study.arms for seed in study.seeds)
    again = start(command)
    told = again.communicate()[1]
    assert again.returncode == 0, told
    assert f"{left} of 4 runs are to be done" in told
    assert all(is_finished(study, arm, seed) for arm in study.arms for seed in study.seeds)
    processes = {run: json.loads((path / "run.json").read_text())["processes"] for run, path in found.items()}
    assert [each["exit"] for each in processes["visplay", 0]] == ["killed", "finished"]
    assert processes["visplay", 0][1]["continued_from"].startswith("checkpoints/")
    assert all(each[-1]["exit"] == "finished" for each in processes.values())

    page, logs = (tmp_path / "page.md").read_text(), {run: read(path) for run, path in found.items()}
    for arm in ARMS:
        of_arm = [logs[arm["name"], seed][0] for seed in (0, 1)]
        cells = []
        for iteration in (0, 1):
            values = [100 * summary[iteration]["heldout_sampled"] for summary in of_arm]
            low, high = stats.t.interval(0.95, 1, np.mean(values), max(stats.sem(values), 1e-12))
            cells.append(f"{np.mean(values):.1f} [{low:.1f}, {high:.1f}]")
        assert f"| {arm['label']} | {' | '.join(cells)} |" in page
        millions = np.mean([logs[arm["name"], seed][1] for seed in (0, 1)]) / 1e6
        assert any(
            line.startswith(f"| {arm['label']} |") and f"| {millions:.3f} |" in line for line in page.splitlines()
        )
    assert (tmp_path / "page.svg").read_text().startswith("<?xml")
