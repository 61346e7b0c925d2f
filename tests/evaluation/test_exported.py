"""Exports among the models of an evaluation: merged ones and adapters, with the images they learned from."""

import pytest
import torch
from lightning import Trainer
from rich.console import Console

from helpers import Scripted, plain_image
from visplay.callbacks import Evaluation
from visplay.commands.compare import evaluate_models
from visplay.data import BenchmarkSource
from visplay.data.benchmarks.benchmark_files import write_benchmarks
from visplay.data.benchmarks.benchmark_suite import BenchmarkSuite
from visplay.data.module import SelfPlayData
from visplay.modules import GRPOConfig, LoRA, Qwen2_5_VL, Reasoner, Tuning
from visplay.modules.policy.weights.model_source import ModelSource
from visplay.modules.policy.weights.saving import ExportFormat, write_policy
from visplay.tiny import ANSWER, BASE
from visplay.types import Example


class Watching(Scripted):
    """Notes which weights answer, with how large images, and when it is ended."""

    def __init__(self):
        super().__init__(lambda *_: "\\boxed{1}")
        self.seen = []

    def load_weights(self, policy):
        up = dict(policy.weights())["model.language_model.layers.0.mlp.up_proj.weight"].detach().clone()
        self.seen.append((up, policy.most_image_tokens))

    def close(self):
        super().close()
        self.seen.append("closed")


@pytest.mark.parametrize("adapter_only", [False, True])
def test_an_export_is_evaluated(tmp_path, adapter_only):
    policy = Qwen2_5_VL(str(BASE), tuning=Tuning((), LoRA(rank=2)), max_pixels=25 * 14**2)
    policy.load()
    with torch.no_grad():
        for weight in policy.trained_weights():
            weight.add_(0.05)
    write_policy(policy, tmp_path / "export", ExportFormat("float32", adapter_only))
    write_benchmarks(tmp_path / "numbers.parquet", {"numbers": [Example("a", plain_image(1), "What is 1?", "1")]})
    suite = BenchmarkSuite((BenchmarkSource("numbers", path=str(tmp_path / "numbers.parquet"), part="numbers"),))
    models = {"base": ModelSource(), "mine": ModelSource(str(tmp_path / "export"))}
    engine, evaluation = Watching(), Evaluation(str(tmp_path / "evaluation"), models=models)
    evaluation.console = Console(width=200, force_terminal=False)
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[engine, evaluation],
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    reasoner = Reasoner(GRPOConfig(max_new_tokens=24), ANSWER, vlm=Qwen2_5_VL(str(BASE)))
    evaluate_models(trainer, reasoner, SelfPlayData(benchmarks=suite))
    (base, whole), closed, (mine, limited), last = engine.seen
    assert (closed, last) == ("closed", "closed")  # the images of the second model are cut otherwise
    sent = dict(policy.weights())["model.language_model.layers.0.mlp.up_proj.weight"]
    torch.testing.assert_close(mine, sent, rtol=0, atol=1e-6)
    assert (mine - base).abs().max() > 1e-3
    assert limited == policy.most_image_tokens != whole
