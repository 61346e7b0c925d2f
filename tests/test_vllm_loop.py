"""The whole loop with real vLLM learns what it learns with transformers' engine."""

import json
import math
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from visplay.cli import run

ROOT = Path(__file__).parent.parent
QUESTIONS = 320
SHORT = [
    "--self_play.iterations=1",
    "--self_play.curation.images=128",
    "--model.questioner.grpo.steps=4",
    "--model.reasoner.grpo.steps=12",
    "--data.heldout_votes=4",
    f"--data.heldout_questions={QUESTIONS}",
]


@pytest.fixture
def fit(monkeypatch, tmp_path):
    """One short iteration with some overlays: the log's folder, and base and trained accuracy of sampled answers."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["visplay"])

    def fit(*overlays):
        save = tmp_path / "-".join(["runs", *overlays])
        configs = [f"--config=configs/{name}.yaml" for name in ("tiny", *overlays)]
        run(["fit", *configs, f"--trainer.logger.save_dir={save}", f"--data.cache={tmp_path / 'images'}", *SHORT])
        folder = save / "tiny" / "version_0"
        rows = json.loads((folder / "summary.json").read_text())
        return folder, [row["heldout_sampled"] for row in rows]

    return fit


def test_the_gain_is_that_of_the_other_engine(fit):
    folder, (base, trained) = fit("vllm")
    _, (other_base, other_trained) = fit()
    assert trained > base + 0.1
    error = math.sqrt(2 * 0.25 / QUESTIONS)  # of the difference of two accuracies
    assert abs((trained - base) - (other_trained - other_base)) < 2 * error
    events = EventAccumulator(str(folder))
    events.Reload()
    for role in ("questioner", "reasoner"):
        assert max(event.value for event in events.Scalars(f"{role}/logp_gap_max")) < 1e-4
        assert min(event.value for event in events.Scalars(f"{role}/effective_sample_size")) > 0.999
