"""Checkpoints within a phase: written every few minutes and when the run is told to end, and whole or not there."""

from __future__ import annotations

import hashlib
import logging
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from torch.optim import Optimizer

from visplay.callbacks.logging import run_directory
from visplay.data.files import checksum_file, replacing
from visplay.modules.training import GRPOModule
from visplay.ranks import gather
from visplay.strategy import FSDP2Strategy

logger = logging.getLogger(__name__)

STEP_FILES = "phase-*-step-*.ckpt"
"""Checkpoints within a phase."""


class StepCheckpoint(Checkpoint):
    """Writes ``checkpoints/phase-NN-step-NNNN.ckpt``, from which the run goes on after that step, bit for bit.

    One is written when it is due, at the end of a step; at SIGUSR1, by which a scheduler says that time is running
    out; and at SIGTERM, before the process ends. A signal is answered at once, with the state after the last step: what
    was sampled since is sampled again. Only where weights have changed since does it wait for the end of the step, and
    where weights are sharded: all ranks take part then, as soon as one of them was told.

    Args:
        every_n_minutes: Longest time between two checkpoints; null goes by steps and signals alone.
        every_n_steps: Steps of a phase between two checkpoints; null goes by the time.
        most_time_fraction: Of the time of a run, how much may go into checkpoints that the time makes due: after one
            that took long to write, the next comes later.
        keep: Checkpoints that are kept, the last ones; at least 2, as one may be damaged.
    """

    def __init__(
        self,
        every_n_minutes: float | None = 5.0,
        every_n_steps: int | None = None,
        most_time_fraction: float = 0.03,
        keep: int = 2,
    ) -> None:
        for name, value in (("every_n_minutes", every_n_minutes), ("every_n_steps", every_n_steps)):
            if value is not None and not value > 0:
                raise ValueError(f"{name}: {value} must be above 0, or null")
        if not 0 < most_time_fraction <= 1:
            raise ValueError(f"most_time_fraction: {most_time_fraction} must be in (0, 1]")
        if keep < 2:
            raise ValueError(f"keep: {keep} must be at least 2: the last checkpoint may be damaged")
        self.every_n_minutes = every_n_minutes
        self.every_n_steps = every_n_steps
        self.most_time_fraction = most_time_fraction
        self.keep = keep
        self._state: dict[str, Any] | None = None  # as of the last step; weights and optimizer state are no copies
        self._path = Path()
        self._is_current = True  # whether weights and optimizer are still those of the state
        self._later: Callable[[], None] | None = None
        self._end: Callable[[], None] | None = None  # once told to
        self._writing = False
        self._written = time.monotonic()
        self._seconds = 0.0
        self._directory: tuple[int, int] | None = None
        self._together = False  # whether all ranks take part in writing

    def setup(self, trainer: Trainer, pl_module: GRPOModule, stage: str) -> None:
        """Have every checkpoint of the run written whole, with its hash."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = DurableCheckpointIO()

    def on_train_start(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Listen to signals, after the trainer has begun to; it gives them back when it ends."""
        self._state, self._is_current, self._later, self._written = None, True, None, time.monotonic()
        self._end = None
        self._directory, self._together = None, isinstance(trainer.strategy, FSDP2Strategy)
        if threading.current_thread() is not threading.main_thread():
            return
        end = signal.getsignal(signal.SIGTERM)
        write = _nothing if self._together else partial(self._write, trainer)  # to be told makes one due
        signal.signal(signal.SIGUSR1, lambda signum, frame: self._answer(write))
        if callable(end):

            def terminate(signum: int, frame: FrameType | None) -> None:
                if self._end is None:  # to be told again must not cut short what is written at the end
                    self._end = partial(end, signum, frame)
                    self._answer(self._end)

            signal.signal(signal.SIGTERM, terminate)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: GRPOModule, optimizer: Optimizer) -> None:
        """Until the step ends its weights are no state to go on from."""
        self._is_current = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: GRPOModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the state after the step, write it if it is due, and answer a signal that came meanwhile."""
        step = pl_module.phase.step
        directory = run_directory(trainer)
        self._see_directory(directory)
        self._path = directory / "checkpoints" / f"phase-{trainer.current_epoch:02d}-step-{step:04d}.ckpt"
        self._state, self._is_current = trainer._checkpoint_connector.dump_checkpoint(weights_only=False), True
        elapsed = time.monotonic() - self._written
        due = self.every_n_steps is not None and step % self.every_n_steps == 0
        if self.every_n_minutes is not None:
            due |= elapsed >= max(60 * self.every_n_minutes, self._seconds / self.most_time_fraction)
        if self._together:  # some may have been told, and clocks differ
            due = any(gather(due or self._later is not None))
        if due:
            self._write(trainer)
        later, self._later = self._later, None
        if later is None and trainer.is_global_zero:
            later = self._end  # it was told, and goes on: Python drops an exit that a finalizer raises
        if later is not None:
            later()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Let the state go: the phase has a checkpoint of its end, and its weights may move."""
        self._state = None

    def on_exception(self, trainer: Trainer, pl_module: GRPOModule, exception: BaseException) -> None:
        """Write the state after the last step, where the process was told to end; an error may have spoiled it."""
        if isinstance(exception, SystemExit) and not self._together:
            self._write(trainer)

    def _see_directory(self, directory: Path) -> None:
        """See that the run's directory is still the one that it was: writing a file makes one that is gone anew.

        Raises:
            FileNotFoundError: It is another one, or gone.
        """
        status = directory.stat() if directory.is_dir() else None
        found = None if status is None else (status.st_dev, status.st_ino)
        if self._directory not in (None, found):
            what = "is gone" if found is None else "was removed since the last step, and made anew without its files"
            raise FileNotFoundError(f"trainer.default_root_dir: the run's directory {what}: {str(directory)!r}")
        self._directory = found

    def _answer(self, act: Callable[[], None]) -> None:
        """Answer a signal now, or when the step is over."""
        if self._state is None or (self._is_current and not self._together):
            act()
        else:
            self._later = act

    def _write(self, trainer: Trainer) -> None:
        writes = trainer.is_global_zero or self._together
        if self._state is None or not self._is_current or self._writing or not writes:
            return
        start, self._writing = time.monotonic(), True
        try:
            trainer.strategy.save_checkpoint(self._state, self._path)
        finally:
            self._writing = False
        self._written = time.monotonic()
        self._seconds = self._written - start
        if not trainer.is_global_zero:
            return
        written = sorted(self._path.parent.glob(STEP_FILES), key=lambda path: path.stat().st_mtime_ns)
        for path in written[: -self.keep]:
            trainer.strategy.remove_checkpoint(path)
        logger.info("%s: written in %.1f s", self._path, self._seconds)


def _nothing() -> None:
    """Do nothing."""


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint aside, forces it to the disk and renames it; its SHA-256 is beside, as of ``sha256sum``.

    One that is read stays on the disk, but for the tensors that are used.
    """

    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        """Open a checkpoint; a URL is Lightning's."""
        if "://" in str(path):
            return super().load_checkpoint(path, *args, **options)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint; one that is there already stays until the new one is complete. A URL is Lightning's."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        with replacing(path) as file:
            hashing = _Hashing(file)
            torch.save(checkpoint, hashing)  # type: ignore[arg-type]  # it only writes
            with replacing(checksum_file(path)) as beside:  # first, so that no checkpoint is without
                beside.write(f"{hashing.found.hexdigest()}  {path.name}\n".encode())

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint and its hash."""
        super().remove_checkpoint(path)
        if "://" not in str(path):
            checksum_file(Path(path)).unlink(missing_ok=True)


class _Hashing:
    """A file to write to that hashes what is written."""

    def __init__(self, file: Any) -> None:
        self.file, self.found = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.found.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()
