"""The whole loop with real vLLM learns what it learns with transformers' engine."""

import json
import math
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from visplay.callbacks import VLLMRollout
from visplay.cli import run
from visplay.evaluation import AnswerStore

pytestmark = pytest.mark.timeout(900)  # a test fits or evaluates twice

ROOT = Path(__file__).parents[3]
QUESTIONS = 320
SHORT = [
    "--self_play.iterations=1",
    "--self_play.curation.images=128",
    "--model.questioner.grpo.steps=4",
    "--model.reasoner.grpo.steps=12",
    "--data.heldout_votes=4",
    f"--data.heldout_questions={QUESTIONS}",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A directory for all that is written, with the command line as if called in the repository."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", ["visplay"])
        yield tmp_path_factory.mktemp("loop")
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def fit(root):
    """One short iteration with some overlays, made once: the log's directory, and base and trained accuracy of
    samples."""

    @cache
    def fit(*overlays):
        save = root / "-".join(["runs", *overlays])
        configs = [f"--config=configs/{name}.yaml" for name in ("tiny", *overlays)]
        run(["fit", *configs, f"--trainer.logger.save_dir={save}", f"--data.cache={root / 'images'}", *SHORT])
        directory = save / "tiny" / "version_0"
        rows = json.loads((directory / "summary.json").read_text())
        return directory, [row["heldout_sampled"] for row in rows]

    return fit


def test_base_and_evolved_are_tested_with_one_engine(fit, root, monkeypatch):
    """The answers are those of the other engine, for both models; the engine is started once."""
    checkpoint = fit()[0] / "checkpoints" / "phase-01.ckpt"
    starts = []
    start = VLLMRollout._start
    monkeypatch.setattr(VLLMRollout, "_start", lambda self, policy: starts.append(policy.path) or start(self, policy))

    def evaluate(*overlays):
        directory = root / "-".join(["evaluation", *overlays])
        configs = [f"--config=configs/{name}.yaml" for name in ("tiny", *overlays)]
        options = [
            f"--evaluation.directory={directory}",
            f"--ckpt_path={checkpoint}",
            f"--data.cache={root / 'images'}",
        ]
        questions = ["--data.heldout_questions=96", "--data.heldout_votes=2"]
        run(["test", *configs, *options, *questions, f"--trainer.logger.save_dir={root / 'tested'}"])
        stores = {path.name.partition("-")[0]: AnswerStore(path) for path in directory.iterdir() if path.is_dir()}
        return {
            (name, row.key): row.greedy.text
            for name, store in stores.items()
            for benchmark in store.benchmarks()
            for row in store.items(benchmark)
        }

    answers, others = evaluate("vllm"), evaluate()
    assert len(starts) == 1
    assert answers.keys() == others.keys()
    assert {name for name, _ in answers} == {"base", "reasoner"}
    assert sum(answers[key] == others[key] for key in answers) >= 0.99 * len(answers)  # but for near ties


def test_the_gain_is_that_of_the_other_engine(fit):
    directory, (base, trained) = fit("vllm")
    _, (other_base, other_trained) = fit()
    assert trained > base + 0.1
    error = math.sqrt(2 * 0.25 / QUESTIONS)  # of the difference of two accuracies
    assert abs((trained - base) - (other_trained - other_base)) < 2 * error
    events = EventAccumulator(str(directory))
    events.Reload()
    for role in ("questioner", "reasoner"):
        assert max(event.value for event in events.Scalars(f"{role}/logp_gap_max")) < 1e-4
        assert min(event.value for event in events.Scalars(f"{role}/effective_sample_size")) > 0.999
