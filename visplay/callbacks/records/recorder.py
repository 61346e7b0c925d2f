"""Recording: chosen steps are kept whole, so that ``visplay replay`` can do them again."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lightning import Callback, Trainer

from visplay.callbacks.logging import run_directory
from visplay.callbacks.records.step_record import CONFIG, STATE, StepRecord, record_name, write_record, write_tensors
from visplay.callbacks.records.step_state import StepState, loss_scaler, own_optimizer, policy_tensors
from visplay.callbacks.records.step_trace import StepTrace, describe_process, tracing
from visplay.callbacks.teacher import Teacher
from visplay.data.files import write_whole
from visplay.modules.policy.vlm import VLM
from visplay.modules.training import GRPOModule

logger = logging.getLogger(__name__)


class _Step(NamedTuple):
    """A step under way.

    Args:
        path: Where its record will be.
        began: The file with the tensors of the state it began with.
        facts: The rest of that.
        trace: What it does.
        seconds: What recording has taken so far.
    """

    path: Path
    began: Path
    facts: dict[str, Any]
    trace: StepTrace
    seconds: float


class Recorder(Callback):
    """Writes ``records/phase-NN-step-NNNN/`` in the run's directory: all that a step started from, and all that it did.

    A record holds images and texts, whatever other callbacks leave out. It is there whole or not at all: a step that
    fails has none, and where the disk fails the run goes on with a warning. A step that is not chosen costs nothing.

    Args:
        steps: Steps of a phase, counted from 1, or "all"; none by default.
        phases: Phases of the run, counted from 0 as checkpoints are; null is every phase.

    Raises:
        ValueError: A step or a phase that there is not.
    """

    def __init__(self, steps: Literal["all"] | Sequence[int] = (), phases: Sequence[int] | None = None) -> None:
        if steps != "all" and any(step < 1 for step in steps):
            raise ValueError(f"steps: {steps} must be 'all', or steps of a phase, counted from 1")
        if phases is not None and any(phase < 0 for phase in phases):
            raise ValueError(f"phases: {phases} must be phases of the run, counted from 0, or null for all")
        self.steps = steps
        self.phases = phases
        self._step: _Step | None = None
        self._tracing = ExitStack()

    def setup(self, trainer: Trainer, pl_module: GRPOModule, stage: str) -> None:
        """Reject what cannot be recorded.

        Raises:
            ValueError: Several processes would learn, or a step from completions that another one sampled, or from a
                teacher's votes.
        """
        if stage == "fit" and self.steps and trainer.world_size > 1:
            raise ValueError(f"record: a step of one process can be recorded, and this run has {trainer.world_size}")
        taught = any(isinstance(c, Teacher) and "rewards" in c.votes for c in trainer.callbacks)
        if stage == "fit" and self.steps and taught:
            raise ValueError("record: a step is recorded without its teacher; give teacher.votes without 'rewards'")
        ahead = [name for name, role in pl_module.roles.items() if stage == "fit" and role.config.staleness]
        if self.steps and ahead:
            raise ValueError(f"record: a step samples what it learns from with {ahead[0]}.grpo.staleness=0, got 1")

    def on_train_batch_start(self, trainer: Trainer, pl_module: GRPOModule, batch: Any, batch_idx: int) -> None:
        """Write what the step starts from, and watch it."""
        step = pl_module.phase.step + 1
        chosen = self.steps == "all" or step in self.steps
        if not batch or not chosen or (self.phases is not None and trainer.current_epoch not in self.phases):
            return
        start, name = time.monotonic(), record_name(f"{trainer.current_epoch:02d}", step)
        path = run_directory(trainer) / "records" / name
        began = path.with_name(f".{name}.{STATE}")
        state = StepState.take(pl_module, own_optimizer(pl_module), loss_scaler(trainer))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for left in path.parent.glob(f".*.{STATE}"):  # by a process that was killed
                left.unlink()
            write_tensors(began, state.tensors)
        except OSError as error:
            _warn(path, error)
            with suppress(OSError):
                began.unlink()
            return
        trace = self._tracing.enter_context(tracing(pl_module, batch))
        self._step = _Step(path, began, state.facts, trace, time.monotonic() - start)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: GRPOModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write what the step did, before other callbacks change the policy."""
        self._tracing.close()
        if self._step is None:
            return
        start, (path, began, facts, trace, seconds) = time.monotonic(), self._step
        assert pl_module.result is not None, "a step with items has a result"
        trace.note_step(pl_module.result, policy_tensors(pl_module, own_optimizer(pl_module)))
        record = StepRecord(StepState({}, facts), trace, describe_process(trainer.strategy.root_device))
        policies = {module.name: module for module in pl_module.modules() if isinstance(module, VLM)}

        def write(directory: Path) -> None:
            began.rename(directory / STATE)
            write_record(directory, record, policies, run_directory(trainer) / CONFIG)

        try:
            write_whole(path, write)
            logger.info("%s: written in %.1f s", path, seconds + time.monotonic() - start)
        except OSError as error:
            _warn(path, error)
        self._let_go()

    def on_exception(self, trainer: Trainer, pl_module: GRPOModule, exception: BaseException) -> None:
        """Let a step go that did not end."""
        self._tracing.close()
        self._let_go()

    def _let_go(self) -> None:
        if self._step is not None:
            self._step.began.unlink(missing_ok=True)
        self._step = None


def _warn(path: Path, error: OSError) -> None:
    logger.warning("%s: the step could not be recorded: %s", path, error)
