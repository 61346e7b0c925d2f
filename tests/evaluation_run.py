"""An evaluation in a process of its own: the small world's splits, answered by the embedded base.

    python evaluation_run.py DIRECTORY DEVICES

Every prompt that is sampled leaves its key in DIRECTORY/asked-RANK.txt.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning import Trainer

from visplay.callbacks import Evaluation, TransformersRollout
from visplay.commands.compare import evaluate_models
from visplay.data import BenchmarkSource
from visplay.data.benchmarks.benchmark_suite import BenchmarkSuite
from visplay.data.module import SelfPlayData
from visplay.modules import VLM, GRPOConfig, Qwen2_5_VL, Reasoner
from visplay.modules.answering import Answering
from visplay.tiny import ANSWER, BASE
from visplay.tiny.splits import write_splits
from visplay.types import Completion, Prompt, Sampling

BATCH, SAMPLES = 8, 3


class Traced(TransformersRollout):
    """Says what it is asked."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory

    def sample_each(
        self, policy: VLM, prompts: Sequence[Prompt], samplings: Sequence[Sampling]
    ) -> list[list[list[Completion]]]:
        with (self.directory / f"asked-{self.trainer.global_rank}.txt").open("a") as file:
            file.write("".join(f"{prompt.key}\n" for prompt in prompts))
        return super().sample_each(policy, prompts, samplings)


def make_suite(directory: Path, questions: int = 80) -> BenchmarkSuite:
    """The splits in one parquet file, written once."""
    path = directory.parent / f"splits-{questions}.parquet"
    if not path.is_file():
        write_splits(path, questions)
    names = ("heldout", "compositional", "hallucination")
    return BenchmarkSuite(tuple(BenchmarkSource(name, path=str(path), part=name) for name in names))


def main(directory: Path, devices: int) -> None:
    torch.set_num_threads(1)
    directory.mkdir(parents=True, exist_ok=True)
    suite = make_suite(directory)
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        callbacks=[Traced(directory), Evaluation(str(directory / "evaluation"), Answering(samples=SAMPLES))],
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    reasoner = Reasoner(GRPOConfig(max_new_tokens=48), ANSWER, vlm=Qwen2_5_VL(str(BASE)))
    evaluate_models(trainer, reasoner, SelfPlayData(validation_batch_size=BATCH, benchmarks=suite))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
