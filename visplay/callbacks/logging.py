"""Small helpers to write to the trainer's loggers outside ``self.log``, and where a run writes."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

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
