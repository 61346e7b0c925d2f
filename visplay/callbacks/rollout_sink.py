"""One record of every sample: what was asked, said, voted and rewarded, on the run's disk."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from PIL.Image import Image
from torch import Tensor

from visplay.benchmark_answers import BatchAnswers, BenchmarkBatch
from visplay.callbacks.logging import run_directory
from visplay.data.files import json_number
from visplay.modules.training import GRPOModule, TrainedRole
from visplay.types import Completion, Judgement, Prompt, Record, Rollout, UnlabeledImage, Vote
from visplay.viewing.run_files import SAMPLES, STEPS_FILE, THUMBNAILS_FILE, SampleFiles, phase_file, shown
from visplay.viewing.thumbnails import Thumbnails

logger = logging.getLogger(__name__)

_MEBIBYTE = 2**20


class RolloutSink(Callback):
    """Writes ``samples/`` into the run's directory, which ``visplay report`` and ``visplay look`` read.

    ``iteration-N-<role>.jsonl`` has a line for every group of a recorded step: the prompt as the policy was given it,
    its image, and of each completion the text, what was parsed of it, the votes, the reward and its parts, and the
    advantage. ``steps.jsonl`` has the statistics of every step. Questions of a data set, with why they were not kept,
    are in ``generated/`` already, and benchmark answers in ``evaluation/``; the sink adds the thumbnails of their
    images. A run that is continued from a checkpoint goes on with the samples that there were.

    Args:
        every_n_steps: Steps between two that are recorded; 1 records all.
        images: Whether thumbnails are kept; without them, the hashes of images are.
        most_megabytes: Of lines and thumbnails in MiB, half for each. Every phase may use an equal part of the lines'
            half, and leaves out the steps that come after it is full; ``steps.jsonl`` is not counted.
    """

    def __init__(self, every_n_steps: int = 1, images: bool = True, most_megabytes: int = 512) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("most_megabytes", most_megabytes)):
            if value < 1:
                raise ValueError(f"{name}: {value} must be at least 1")
        self.every_n_steps = every_n_steps
        self.images = images
        self.most_megabytes = most_megabytes
        self._files: SampleFiles
        self._thumbnails: Thumbnails
        self._most_bytes_of_phase = 0
        self._full = ""
        self._kept: dict[str, int] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Find the samples that there are, and take away those of after the checkpoint."""
        directory = run_directory(trainer)
        self._files = SampleFiles(directory)
        half = self.most_megabytes * _MEBIBYTE // 2
        self._thumbnails = Thumbnails(directory / SAMPLES / THUMBNAILS_FILE, half if self.images else 0)
        self._most_bytes_of_phase = half // max(trainer.fit_loop.max_epochs or 1, 1)
        if trainer.is_global_zero:
            self._files.cut(self._kept or {})

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: GRPOModule, outputs: Any, batch: Sequence, batch_idx: int
    ) -> None:
        """Write the step's statistics, and its groups if it is to be recorded."""
        if pl_module.result is None or not trainer.is_global_zero:
            return
        phase, result = pl_module.phase, pl_module.result
        step = {"iteration": phase.iteration, "role": phase.role, "attempt": phase.attempt, "step": phase.step}
        statistics = {name: json_number(value) for name, value in result.statistics.items()}
        statistics |= {name: json_number(value) for name, value in result.judgement.statistics.items()}
        self._files.append(STEPS_FILE, [step | statistics])
        name = phase_file(phase)
        if (phase.step - 1) % self.every_n_steps or self._full == name:
            return
        groups = _groups(pl_module.role, result.rollout, result.judgement, result.advantages)
        hashes = self.keep_images(
            {each["image"]: image for each, image in groups if image is not None and each["image"]}
        )
        gap = statistics.get("logp_gap_mean")
        rows = [step | {"image_hash": hashes.get(each["image"]), "logp_gap": gap} | each for each, _ in groups]
        if not self._files.append(name, rows, self._most_bytes_of_phase):
            self._full = name
            logger.info("%s/%s is full: the phase's later steps are not recorded; see most_megabytes", SAMPLES, name)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: GRPOModule,
        outputs: BatchAnswers,
        batch: BenchmarkBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the images of benchmark items, by ``benchmark/key``."""
        if trainer.is_global_zero and trainer.state.fn == TrainerFn.FITTING:
            items = ((f"{batch.benchmark}/{each.key}", each.image) for each in batch.examples)
            self.keep_images({key: image for key, image in items if image is not None})

    def keep_proposed(self, images: Sequence[UnlabeledImage]) -> None:
        """Keep the images that questions of a data set are asked about."""
        self.keep_images({each.key: each.image for each in images if each.image is not None})

    def keep_images(self, images: dict[str, Image]) -> dict[str, str]:
        """Keep thumbnails of images by their keys; the hashes of the images."""
        return self._thumbnails.add(images)

    def state_dict(self) -> dict[str, Any]:
        """How long the files are."""
        return {"position": self._files.position()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Undo ``state_dict``, when the run's directory is known."""
        self._kept = dict(state_dict["position"])


def _groups(
    role: TrainedRole, rollout: Rollout, judgement: Judgement, advantages: Tensor | None
) -> list[tuple[dict[str, Any], Image | None]]:
    """Each group of a step as JSON values, and its image."""
    size = judgement.rewards.shape[1]
    found = []
    for n, (prompt, completions) in enumerate(zip(rollout.prompts, rollout.completions, strict=True)):
        records = judgement.records[n * size : (n + 1) * size]
        values = [math.nan] * size if advantages is None else advantages[n].tolist()
        found.append((_group(role, prompt, completions, records, values), records[0].image))
    return found


def _group(
    role: TrainedRole,
    prompt: Prompt,
    completions: Sequence[Completion],
    records: Sequence[Record],
    advantages: Sequence[float],
) -> dict[str, Any]:
    first, asks = records[0], role.learns_from == "images"
    group: dict[str, Any] = {"image": first.image_key, "prompt": shown(role.vlm.decode(prompt.token_ids))}
    if not asks:
        group |= {"question": _shown(first.problem), "kind": first.kind, "gold": _shown(first.gold)} | _vote(first.vote)
    group["completions"] = [
        {
            "text": shown(record.text),
            "finished": completion.finished,
            "answer": _shown(record.answer),
            "reward": json_number(record.reward),
            "parts": {name: json_number(value) for name, value in record.parts.items()},
            "advantage": None if math.isnan(advantage) else json_number(advantage),
        }
        | ({"question": _shown(record.problem), "kind": record.kind} | _vote(record.vote) if asks else {})
        for completion, record, advantage in zip(completions, records, advantages, strict=True)
    ]
    return group


def _vote(vote: Vote | None) -> dict[str, Any]:
    if vote is None:
        return {"silver": None, "confidence": None, "votes": []}
    counts = [[shown(name), count] for name, count in vote.counts]
    return {"silver": _shown(vote.answer), "confidence": vote.confidence, "votes": counts}


def _shown(text: str | None) -> str | None:
    return None if text is None else shown(text)
