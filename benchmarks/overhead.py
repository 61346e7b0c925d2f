"""What of a training step is neither the model, nor its backward pass, nor the optimizer, nor sampling.

Lightning's Trainer fits a Reasoner alone; every ``training_step`` is timed, and within it, by clocks around the calls:

- forward: ``VLM.logps``, ``prefill``, ``extend`` and ``logits`` (outside sampling); of the reference policy as well;
- backward: ``manual_backward``;
- optimizer: ``Optimizer.step`` and the clipping of gradients;
- sampling: ``RolloutEngine.sample``, from token ids to texts;
- grading: ``judge``;
- images: ``process_images``, which cuts them into patches, even where it is called within a forward or a sampling;
- rest: what is left of the step: prompts, collating, advantages, loss, statistics, logging.

The overhead is grading, images and rest. A clock within another stops the outer one, so the stages add up to the
step.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch.utils.data import DataLoader

from benchmarks.timing import synchronize
from benchmarks.updates import Size, make_images
from visplay.callbacks import RolloutEngine, TransformersRollout
from visplay.modules import GRPOConfig, Qwen2_5_VL, Reasoner
from visplay.modules.learner import grpo as learning
from visplay.modules.learner.mismatch import MismatchConfig
from visplay.tiny import ANSWER
from visplay.types import Completion, Example, Prompt, Sampling

OVERHEAD = ("grading", "images", "rest")


class Stages:
    """Seconds by stage; only the innermost stage runs.

    Attributes:
        seconds: Of each stage.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = 0.0

    def timed(self, call: Callable[..., Any], stage: str) -> Callable[..., Any]:
        """The call, counted as a stage."""

        def run(*args: Any, **kwargs: Any) -> Any:
            self._turn(stage)
            try:
                return call(*args, **kwargs)
            finally:
                self._turn(None)

        return run

    def watch(self, owner: object, stage: str, *names: str) -> None:
        """Count methods of an object as a stage."""
        for name in names:
            setattr(owner, name, self.timed(getattr(owner, name), stage))

    def _turn(self, stage: str | None) -> None:
        """Enter a stage, or with None leave the innermost one."""
        synchronize()
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._open.append(stage) if stage else self._open.pop()
        self._since = now


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
    share = sum(seconds[stage] for stage in OVERHEAD) / sum(seconds.values())
    return {"seconds": seconds, "steps": steps, "share": share}


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
