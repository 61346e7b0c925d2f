"""Images, questions, votes and rewards to TensorBoard, one panel per completion."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from lightning import Callback, Trainer
from PIL import Image, ImageDraw, ImageFont

from visplay.callbacks.logging import log_histogram, tensorboard_writers
from visplay.foreign_text import markdown_text, visible
from visplay.modules.training import GRPOModule
from visplay.types import Record

IMAGE_PIXELS = 224
TEXT_COLUMNS = 64
LINE_PIXELS = 16
SHOWN_CHARACTERS = 10_000
"""Of a text; more is cut off."""


class SampleLogger(Callback):
    """Shows what was asked, said and rewarded.

    Args:
        every_n_steps: Steps between two panels.
        groups: Prompts shown; of each, the completions with the lowest and the highest reward.
        images: Whether images are shown; without them texts still are.
        texts: Whether questions, completions and answers are shown; without them, images with their rewards still are.
            With neither, nothing of what a run reads or writes is in its logs, but figures.
    """

    def __init__(self, every_n_steps: int = 10, groups: int = 3, images: bool = True, texts: bool = True) -> None:
        if every_n_steps < 1 or groups < 1:
            raise ValueError(f"every_n_steps={every_n_steps} and groups={groups} must be at least 1")
        self.every_n_steps = every_n_steps
        self.groups = groups
        self.images = images
        self.texts = texts

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: GRPOModule, outputs: Any, batch: Sequence, batch_idx: int
    ) -> None:
        """Log panels and the histogram of confidence every so many steps, the first one included."""
        if pl_module.result is None or (pl_module.phase.step - 1) % self.every_n_steps or not trainer.is_global_zero:
            return
        judgement = pl_module.result.judgement
        step, name = pl_module.phase.role_step, pl_module.role.name
        chosen = _extremes(judgement.records, len(judgement.rewards), self.groups)
        for writer in tensorboard_writers(trainer):
            if self.images:
                panels = np.concatenate([np.asarray(draw_panel(record, self.texts)) for record in chosen])
                writer.add_image(f"{name}/samples", panels, step, dataformats="HWC")
            if self.texts:
                writer.add_text(f"{name}/samples", _table(chosen), step)
        confidences = [r.vote.confidence for r in judgement.records if r.vote is not None and r.vote.answer is not None]
        log_histogram(trainer, f"{name}/confidence_histogram", confidences, step)


def draw_panel(record: Record, texts: bool = True) -> Image.Image:
    """Draw an image with what was asked, said, voted and rewarded next to it; without texts, the reward alone."""
    panel = Image.new("RGB", (IMAGE_PIXELS + 8 + 7 * TEXT_COLUMNS, IMAGE_PIXELS + 8), "white")
    if record.image is not None:
        scale = IMAGE_PIXELS / max(record.image.size)
        size = (max(1, round(record.image.width * scale)), max(1, round(record.image.height * scale)))
        resampling = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
        panel.paste(record.image.resize(size, resampling), (4, 4))
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(size=12)
    shown = [visible(text[:SHOWN_CHARACTERS], " \t\n") for text in _lines(record)[0 if texts else -1 :]]
    lines = [line for text in shown for line in textwrap.wrap(text, TEXT_COLUMNS) or [""]]
    for number, line in enumerate(lines[: IMAGE_PIXELS // LINE_PIXELS]):
        draw.text((IMAGE_PIXELS + 12, 4 + number * LINE_PIXELS), line, fill="black", font=font)
    return panel


def _lines(record: Record) -> list[str]:
    lines = [f"question: {record.problem or '(does not parse)'}", f"completion: {record.text}"]
    if record.vote is not None:
        counts = ", ".join(f"{name} x{count}" for name, count in record.vote.counts[:6])
        lines += [f"votes: {counts}", f"silver: {record.vote.answer}   confidence: {record.vote.confidence:.2f}"]
    if record.gold is not None:
        lines.append(f"gold: {record.gold}")
    return [*lines, f"reward: {record.reward:+.3f}"]


def _extremes(records: Sequence[Record], prompts: int, groups: int) -> list[Record]:
    """The worst and the best completion of each of the first groups."""
    size = len(records) // prompts
    starts = range(0, min(groups, prompts) * size, size)
    ordered = (sorted(records[start : start + size], key=lambda record: record.reward) for start in starts)
    return [record for group in ordered for record in (group[0], group[-1])]


def _table(records: Sequence[Record]) -> str:
    """The records as a Markdown table; a model's text cannot break out of its cell."""
    lines = ["| reward | question | completion | votes |", "|---|---|---|---|"]
    for record in records:
        votes = "" if record.vote is None else ", ".join(f"{name} ×{count}" for name, count in record.vote.counts)
        texts = (f"{record.reward:+.3f}", record.problem or "", record.text, votes)
        cells = (markdown_text(text[:SHOWN_CHARACTERS]) for text in texts)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
