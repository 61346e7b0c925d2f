"""TRL's ``GRPOTrainer`` as a yardstick for ``benchmarks.step``: its rollout, its update and its whole step.

It needs the extra ``bench``. The trainer is TRL's own, and so is every optimisation step: ``GRPOTrainer.train`` sets
up, and the body of its loop, ``_run_epoch``, does each step, an epoch being one step. No hub is asked. What TRL is
given to be fast on one device:

- as few micro-batches as memory allows (one, unless ``batch`` says otherwise); completions are sampled once a step
  for all of them, and with one update per rollout no pass for old log-probabilities is made;
- no reference model (``beta=0``), no gradient checkpointing, no log, no report, no progress bar, no check-points;
- the fused AdamW, which is its default, and ``sdpa``, transformers' default attention;
- float32 weights under bfloat16 autocast as the default, which sampling goes through as well (``bf16-mixed``);
  ``bf16`` loads the weights in bfloat16, where a learning rate of 1e-6 changes no weight: it is a lower bound of
  the time, not a training run;
- no worker processes for the data, which would compete with the computation for the cores.

Completions have exactly T tokens: whatever could end one is suppressed, and so are the control tokens that a policy
of ours never samples. Liger's kernels need CUDA or a similar device and are left off.

TRL 1.16 hands ``mm_token_type_ids`` on to Qwen's models, so nothing of it needs mending under transformers 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

Precision = Literal["float32", "bf16-mixed", "bf16"]
FEATURES = Features(
    {
        "prompt": List({"role": Value("string"), "content": Value("string")}),
        "image": Image(),
        "number": Value("int64"),
    }
)
"""Of a data set that is asked about: conversations, each with an image, and their numbers."""


@dataclass(frozen=True)
class TRLSettings:
    """What a step is made of.

    Args:
        group: G, completions per prompt.
        tokens: T, tokens of every completion.
        batch: Completions of a micro-batch, a divisor of N * G; None takes all in one.
        precision: Of the computation; ``bf16`` is that of the weights as well.
        suppressed: Ids that are never sampled, for completions of exactly T tokens those that end one among them.
    """

    group: int
    tokens: int
    batch: int | None = None
    precision: Precision = "bf16-mixed"
    suppressed: tuple[int, ...] = ()


class TRLStep:
    """TRL's GRPO step on N prompts, the same ones every time.

    Args:
        path: A Hugging Face directory with model and processor.
        output: A directory that TRL may write to.
        questions: N questions, the whole text of the user's turn.
        images: N images, one per question.
        settings: What a step is made of.

    Raises:
        ValueError: There is not one image per question, or ``batch`` does not divide N * G.
    """

    def __init__(
        self,
        path: Path,
        output: Path,
        questions: Sequence[str],
        images: Sequence[PILImage.Image],
        settings: TRLSettings,
    ) -> None:
        rows = [
            {"prompt": [{"role": "user", "content": question}], "image": image, "number": number}
            for number, (question, image) in enumerate(zip(questions, images, strict=True))
        ]
        config = make_config(output, len(rows) * settings.group, settings)
        self.trainer = _OneStep(
            model=str(path),
            reward_funcs=_alternating,
            args=config,
            train_dataset=Dataset.from_list(rows, features=FEATURES),
        )
        self.trainer.remove_callback(PrinterCallback)
        self.trainer.train()

    def rollout(self) -> dict[str, Any]:
        """Load the prompts, sample, and reward: TRL's generate-and-score stage.

        Returns:
            What TRL's update takes, among it ``prompt_ids`` (N * G, P), ``completion_ids`` (N * G, T) and
            ``advantages`` (N * G,).
        """
        return self.trainer.rollout()

    def update(self, inputs: dict[str, Any]) -> None:
        """Forward, loss, backward, clipping and the optimizer's step on what ``rollout`` returned."""
        self.trainer.update(inputs)

    def step(self) -> None:
        """One optimisation step as ``train`` does it, from the data loader to the optimizer."""
        self.trainer.step()


class _OneStep(GRPOTrainer):
    """TRL's trainer, stopped where its loop begins, then taken through it one epoch, that is one step, at a time."""

    _epoch: dict[str, Any] | None = None
    _held: dict[str, Any] | None = None

    def _run_epoch(self, **arguments: Any) -> None:
        """Keep what ``train`` prepared, and let it return."""
        self._epoch = arguments
        self.control.should_training_stop = True

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        return super()._generate_and_score_completions(inputs) if self._held is None else self._held

    def rollout(self) -> dict[str, Any]:
        self.model.train()
        batches, _ = self.get_batch_samples(
            iter(self._epoch["train_dataloader"]), self.args.gradient_accumulation_steps, self.args.device
        )
        return self._generate_and_score_completions(batches[0])

    def update(self, inputs: dict[str, Any]) -> None:
        self._held = inputs
        self._step_with([[]] * self.args.gradient_accumulation_steps)
        self._held = None

    def step(self) -> None:
        self._step_with(self._epoch["train_dataloader"])

    def _step_with(self, loader: Any) -> None:
        self.control.should_training_stop = False
        super()._run_epoch(**self._epoch | {"train_dataloader": loader})


def make_config(output: Path, completions: int, settings: TRLSettings, **different: Any) -> GRPOConfig:
    """The settings of TRL's trainer, as fast as it can be.

    Args:
        output: A directory that TRL may write to.
        completions: N * G of a step.
        settings: What a step is made of.
        **different: Other values of ``GRPOConfig``.

    Raises:
        ValueError: ``batch`` does not divide the completions.
    """
    batch = settings.batch or completions
    if completions % batch:
        raise ValueError(f"batch: {batch} must divide the {completions} completions of a step")
    fastest: dict[str, Any] = dict(
        output_dir=str(output),
        max_steps=1_000_000,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=completions // batch,
        num_generations=settings.group,
        max_completion_length=settings.tokens,
        generation_kwargs={"suppress_tokens": list(settings.suppressed)},
        model_init_kwargs={"dtype": "bfloat16" if settings.precision == "bf16" else "float32"},
        bf16=settings.precision != "float32",
        gradient_checkpointing=False,
        shuffle_dataset=False,
        lr_scheduler_type="constant",
        learning_rate=1e-6,
        max_grad_norm=1.0,
        temperature=1.0,
        beta=0.0,
        num_iterations=1,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
    )
    return GRPOConfig(**fastest | different)


def _alternating(completions: Sequence[object], **_: object) -> list[float]:
    """Rewards that differ within every group, so that every completion has a gradient."""
    return [float(i % 2) for i in range(len(completions))]
