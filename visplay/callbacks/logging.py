"""Small helpers to write to the trainer's loggers outside ``self.log``, and where a run writes."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from lightning import Trainer
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL.Image import Image
from torch.utils.tensorboard import SummaryWriter

from visplay.foreign_text import markdown_text, visible
from visplay.ranks import from_first, gather, world_size


def run_directory(trainer: Trainer) -> Path:
    """Where a run writes. Of several ranks all have to ask, as rank 0 tells the others."""
    return Path(trainer.log_dir or trainer.default_root_dir)


def check_shared(directory: Path, argument: str) -> None:
    """See that all ranks write into one directory, and those of another machine not into their own.

    Raises:
        FileNotFoundError: A rank does not see what rank 0 has just written there.
    """
    if world_size() == 1:
        return
    token = from_first(lambda: secrets.token_hex(8))
    probe = directory / f".seen-{token}"

    def leave() -> None:
        directory.mkdir(parents=True, exist_ok=True)
        probe.touch()

    from_first(leave)
    blind = [rank for rank, sees in enumerate(gather(probe.is_file())) if not sees]
    from_first(probe.unlink)
    if blind:
        raise FileNotFoundError(
            f"{argument}: ranks {blind} do not see what rank 0 writes in {str(directory)!r}; give a directory that all "
            "machines share, and where its path is relative start all ranks in one working directory"
        )


def log_scalars(trainer: Trainer, group: str, values: Mapping[str, float], step: int) -> None:
    """Log ``group/name`` to every logger."""
    for logger in trainer.loggers:
        logger.log_metrics({f"{group}/{name}": value for name, value in values.items()}, step=step)


def log_histogram(trainer: Trainer, name: str, values: Sequence[float], step: int) -> None:
    """Log a histogram of values in [0, 1] to TensorBoard and W&B; nothing without values."""
    if not values:
        return
    edges = np.linspace(0, 1, 21)
    for writer in tensorboard_writers(trainer):
        writer.add_histogram(name, np.asarray(values), step, bins=edges)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            from wandb import Histogram

            logger.log_metrics({name: Histogram(np_histogram=np.histogram(values, edges))}, step=step)


def log_images(trainer: Trainer, name: str, images: Mapping[str, Image], step: int) -> None:
    """Log images by their captions to TensorBoard, MLflow, and every logger with a ``log_image`` as W&B's has.

    W&B shows them in one gallery, the others each under ``name/caption``.
    """
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            for caption, image in images.items():
                logger.experiment.add_image(f"{name}/{caption}", np.asarray(image), step, dataformats="HWC")
        elif isinstance(logger, MLFlowLogger):
            for caption, image in images.items():
                logger.experiment.log_image(logger.run_id, image, key=f"{name}/{caption}", step=step)
        elif hasattr(logger, "log_image"):
            logger.log_image(name, list(images.values()), step=step, caption=list(images))


def log_table(trainer: Trainer, name: str, columns: Sequence[str], rows: Sequence[Sequence[str]], step: int) -> None:
    """Log texts to TensorBoard and MLflow as a Markdown table, and as a table to loggers with W&B's ``log_table``."""
    lines = [columns, ["---"] * len(columns), *([markdown_text(cell) for cell in row] for row in rows)]
    markdown = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text(name, markdown, step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_text(logger.run_id, markdown, f"{name}/step-{step}.md")
        elif hasattr(logger, "log_table"):
            shown = [[visible(cell, keep="\n") for cell in row] for row in rows]
            logger.log_table(name, columns=list(columns), data=shown, step=step)


def tensorboard_writers(trainer: Trainer) -> list[SummaryWriter]:
    """The TensorBoard writers among the trainer's loggers."""
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def log_position(trainer: Trainer) -> dict[str, int]:
    """Bytes in each of the run's TensorBoard files, by name, once all that was logged is in them."""
    for writer in tensorboard_writers(trainer):
        writer.flush()
    return {file.name: file.stat().st_size for file in _event_files(trainer.log_dir)}


def cut_log(directory: str, position: Mapping[str, int]) -> None:
    """Take from a run's TensorBoard log what was logged after ``log_position``, before anything else is logged."""
    for file in _event_files(directory):
        if file.name in position:
            os.truncate(file, min(position[file.name], file.stat().st_size))
        else:
            file.unlink()


def _event_files(directory: str | None) -> list[Path]:
    return sorted(Path(directory).glob("events.out.tfevents.*")) if directory else []
