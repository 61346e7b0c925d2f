"""Small helpers to write to the trainer's loggers outside ``self.log``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter


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
