"""How near the update comes to what the machine can do, where its time goes, and what a step adds to it.

``python -m benchmarks.profile`` prints the measured peak of matrix products, the fraction of it that the update's
needed operations (``benchmarks.flops``) reach, the operators that take the most time, and the overhead of a step:
what of it is neither the model, nor its backward pass, nor the optimizer, nor sampling.

For the overhead Lightning's Trainer fits a Reasoner alone; every ``training_step`` is timed by clocks around the calls:

- forward: ``VLM.logps``, ``prefill``, ``extend`` and ``logits`` (outside sampling); of the reference policy as well;
- backward: ``manual_backward``;
- optimizer: ``Optimizer.step`` and the clipping of gradients;
- sampling: ``RolloutEngine.sample``, from token ids to texts;
- grading: ``judge``;
- images: ``process_images``, which cuts them into patches, even where it is called within a forward or a sampling;
- rest: what is left of the step: prompts, collating, advantages, loss, statistics, logging.

The overhead is grading, images and rest.

Figures: ``peak``, for each precision operations per second of each product; ``update``, for each precision ``seconds``,
``flops`` and ``fraction`` of the best product in that precision; ``parts``, needed operations forward by part;
``operators``, the most expensive ones of an update, each with name, seconds and fraction; ``overhead``; ``shape``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch.profiler import ProfilerActivity
from torch.utils.data import DataLoader

from benchmarks.flops import forward_flops, measure_peak, model_products, packed_work, update_flops
from benchmarks.measure import Stages, alternate
from benchmarks.models import make_policy
from benchmarks.results import make_parser, parse, publish
from benchmarks.workload import DTYPES, Size, add_size, make_batch, make_images, make_update, read_size
from visplay.callbacks import RolloutEngine, TransformersRollout
from visplay.modules import GRPOConfig, Qwen2_5_VL, Reasoner
from visplay.modules.learner import grpo as learning
from visplay.modules.learner.mismatch import MismatchConfig
from visplay.tiny import ANSWER
from visplay.types import Completion, Example, Prompt, Sampling

OPERATORS = 15
OVERHEAD = ("grading", "images", "rest")


class Answering(RolloutEngine):
    """Samples with another engine and gives the samples texts that have to be graded, as those of a trained model.

    Args:
        engine: The other engine.
    """

    def __init__(self, engine: RolloutEngine) -> None:
        super().__init__()
        self.engine = engine

    def load_weights(self, policy: Any) -> None:
        """Hand the policy on."""
        self.engine.load_weights(policy)

    def sample(self, policy: Any, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Every sample answers a number, the right one (3) every third time."""
        self.engine.trainer = self.trainer
        texts = [f"<think>some</think> \\boxed{{{number} dogs}}" for number in (3, 4, 5)]
        groups = self.engine.sample(policy, prompts, sampling)
        return [[replace(c, text=texts[i % 3], finished=True) for i, c in enumerate(group)] for group in groups]


class _Watch(Callback):
    """Begins the phase, and puts the clocks where they belong once the optimizer is there; warms up for one step."""

    def __init__(self, stages: Stages) -> None:
        self.stages = stages

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the phase and watch."""
        pl_module.learner.begin_phase(pl_module.vlm, trainer.optimizers[0])
        self.stages.watch(trainer.optimizers[0], "optimizer", "step")
        self.stages.watch(pl_module, "backward", "manual_backward")
        for policy in (pl_module.vlm, pl_module.learner.reference):
            self.stages.watch(policy, "forward", "logps", "prefill", "extend", "logits")
            self.stages.watch(policy, "images", "process_images")
        self.stages.watch(pl_module, "grading", "judge")
        self.stages.watch(pl_module, "rest", "training_step")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Forget the step that warmed up."""
        if batch_idx == 0:
            self.stages.seconds.clear()


class _Items(LightningDataModule):
    """Batches of examples, which stay where they are."""

    def __init__(self, items: Sequence[Example], per_batch: int) -> None:
        super().__init__()
        self.items = items
        self.per_batch = per_batch

    def train_dataloader(self) -> DataLoader:
        """In their order."""
        return DataLoader(self.items, batch_size=self.per_batch, collate_fn=list)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """As it is."""
        return batch


def measure_overhead(policy: Qwen2_5_VL, size: Size, steps: int, precision: str) -> dict[str, Any]:
    """Seconds of the stages of a step, a mean over steps, and the fraction of the overhead.

    Args:
        policy: Who answers and learns.
        size: Of a step.
        steps: Steps that count; one more warms up.
        precision: Of the Trainer.
    """
    stages, engine = Stages(), Answering(TransformersRollout())
    stages.watch(engine, "sampling", "sample")
    clip = stages.timed(torch.nn.utils.clip_grad_norm_, "optimizer")
    trainer = Trainer(
        accelerator="gpu" if policy.device.type == "cuda" else "cpu",
        devices=1,
        precision=precision,
        max_epochs=1,
        logger=False,
        callbacks=[engine, _Watch(stages)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    items = _examples(size, steps + 1)
    with patch.object(learning, "clip_grad_norm_", clip):
        trainer.fit(_make_reasoner(policy, size), datamodule=_Items(items, size.prompts))
    seconds = {stage: value / steps for stage, value in stages.seconds.items()}
    fraction = sum(seconds[stage] for stage in OVERHEAD) / sum(seconds.values())
    return {"seconds": seconds, "steps": steps, "fraction": fraction}


def _make_reasoner(policy: Qwen2_5_VL, size: Size) -> Reasoner:
    config = GRPOConfig(
        prompts_per_step=size.prompts,
        prompts_per_update=None,
        group_size=size.group,
        max_new_tokens=size.tokens,
        mismatch=MismatchConfig(stop=False),
    )
    return Reasoner(config, ANSWER, vlm=policy)


def _examples(size: Size, steps: int) -> list[Example]:
    images = make_images(size.prompts * steps, size.side)
    return [Example(str(i), image, "How many dogs are there?", "3") for i, image in enumerate(images)]


def profile_operators(run: Callable[[], object]) -> list[dict[str, Any]]:
    """The operators that take the most time by themselves in one call, and all others together."""
    run()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with torch.profiler.profile(activities=activities) as profile:
        run()
    kind = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    times = sorted(((getattr(event, kind) / 1e6, event.key) for event in profile.key_averages()), reverse=True)
    total = sum(seconds for seconds, _ in times)
    rest = sum(seconds for seconds, _ in times[OPERATORS:])
    rows = [*times[:OPERATORS], (rest, "all others")]
    return [{"name": name, "seconds": seconds, "fraction": seconds / total} for seconds, name in rows]


def measure_update(policy: Qwen2_5_VL, options: argparse.Namespace) -> dict[str, Any]:
    """The peak and the update in each precision, and the operators of the first."""
    size = read_size(options)
    batch = make_batch(policy, size)
    work = packed_work(policy, batch)
    cube = options.cube
    products = [(cube, cube, cube), *model_products(policy.model, work.text_tokens)]
    device = policy.device.type
    peaks = {d: measure_peak(products, DTYPES[d], device, options.rounds) for d in options.dtypes}
    updates = {d: make_update(policy, batch, DTYPES[d]) for d in options.dtypes}
    seconds, flops = alternate(updates, options.rounds), update_flops(policy.model.config, work)
    fractions = {d: flops / s.median / max(peaks[d].values()) for d, s in seconds.items()}
    update = {d: {"seconds": seconds[d], "flops": flops, "fraction": fractions[d]} for d in options.dtypes}
    return {
        "peak": peaks,
        "update": update,
        "parts": forward_flops(policy.model.config, work),
        "operators": profile_operators(updates[options.dtypes[0]]),
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    size, device = read_size(options), "cuda" if torch.cuda.is_available() else "cpu"
    precision = {"bfloat16": "bf16-mixed", "float32": "32-true"}[options.dtypes[0]]
    with tempfile.TemporaryDirectory() as directory:
        policy = make_policy(options.model, Path(directory), device).train()
        figures = measure_update(policy, options)
        figures["overhead"] = measure_overhead(policy, size, options.rounds, precision)
    shape = {"model": options.model, "prompts": size.prompts, "G": size.group, "T": size.tokens, "side": size.side}
    return figures | {"shape": shape}


def main() -> None:
    """Measure, print, and record where it is asked for."""
    parser = make_parser(__doc__)
    add_size(parser, prompts=4)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), help="the first gives the keys")
    parser.add_argument("--cube", type=int, default=4096, help="side of the square product")
    options = parse(parser)
    figures = measure(options)
    fraction = figures["update"][options.dtypes[0]]["fraction"]
    keys = {"matmul_peak_fraction": fraction, "overhead_fraction": figures["overhead"]["fraction"]}
    publish("profile", figures, keys, options)


if __name__ == "__main__":
    main()
