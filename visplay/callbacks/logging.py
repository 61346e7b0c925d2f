"""Small helpers to write to the trainer's loggers outside ``self.log``, and where a run writes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter


def run_directory(trainer: Trainer) -> Path:
    """Where a run writes. Of several ranks all have to ask, as rank 0 tells the others."""
    return Path(trainer.log_dir or trainer.default_root_dir)


def log_scalars(trainer: Trainer, group: str, values: Mapping[str, float], step: int) -> None:
    """Log ``group/name`` to every logger."""
    for logger in trainer.loggers:
        logger.log_metrics({f"{group}/{name}": value for name, value in values.items()}, step=step)


def log_histogram(trainer: Trainer, name: str, values: Sequence[float], step: int) -> None:
    """Log a histogram of values in [0, 1] to TensorBoard; nothing without values."""
    for writer in tensorboard_writers(trainer):
        if values:
            writer.add_histogram(name, np.asarray(values), step, bins=np.linspace(0, 1, 21))


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
