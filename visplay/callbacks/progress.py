"""What is being done now, and how well it goes: a line that is redrawn in a terminal, lines of the log elsewhere."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from rich.live import Live
from rich.progress_bar import ProgressBar as Bar
from rich.table import Table
from rich.text import Text

from visplay.clock import span
from visplay.modules.training import GRPOModule
from visplay.terminal import CONSOLE

logger = logging.getLogger(__name__)
_SHOWN = ("reward", "valid_fraction", "agreement")
"""Metrics of a step, of those that the role logs."""


class PhaseProgress(ProgressBar):
    """Says iteration, role, stage, step, how the step went, and the time that is left.

    Outside a terminal, that is a line of the log at the end of each stage and every ``seconds_between_lines``, also
    while nothing calls a hook for minutes, as in curation and evaluation. The time left of the run is estimated from
    the phases so far, and given once each of the roles to come has had one.

    Args:
        refresh_per_second: How often the line in a terminal is redrawn.
        seconds_between_lines: Longest time without a line outside a terminal.
    """

    now: Callable[[], float] = staticmethod(time.monotonic)

    def __init__(self, refresh_per_second: float = 4.0, seconds_between_lines: float = 60.0) -> None:
        super().__init__()
        if seconds_between_lines <= 0:
            raise ValueError(f"seconds_between_lines: {seconds_between_lines} must be above 0")
        self.refresh_per_second = refresh_per_second
        self.seconds_between_lines = seconds_between_lines
        self._enabled = True
        self._live: Live | None = None
        self._speaker: _Speaker | None = None
        self._phase_began = self._stage_began = self.now()
        self._phase_seconds: dict[str, float] = {}
        self._step_facts: list[str] = []
        self._first: dict[str, float] = {}
        self._tokens = 0.0

    def disable(self) -> None:
        """Show nothing."""
        self._enabled = False

    def enable(self) -> None:
        """Show progress."""
        self._enabled = True

    def describe(self, trainer: Trainer, module: GRPOModule) -> str:
        """What is being done now, in one line."""
        note = module.clock.note
        if trainer.evaluating or trainer.sanity_checking:
            return " · ".join([_evaluation(trainer, module), *([note] if note else [])])
        doing = " ".join(part for part in (module.clock.stage, note) if part)
        return " · ".join([_phase(module), *([doing] if doing else []), *self._step_facts])

    def on_fit_start(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Start to show."""
        self._phase_began, self._phase_seconds, self._step_facts = self.now(), {}, []
        self._start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Begin to count the time of the phase's steps; what it learns from was made before."""
        self._stage_began, self._step_facts = self.now(), [f"step 0/{pl_module.role.config.steps}"]
        self._first, self._tokens = {}, 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: GRPOModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note how the step went; say how the phase ended with its last step."""
        role, step, steps = pl_module.phase.role, pl_module.phase.step, pl_module.role.config.steps
        metrics = trainer.callback_metrics
        found = {name: float(metrics[f"{role}/{name}"]) for name in _SHOWN if f"{role}/{name}" in metrics}
        self._first = self._first or found
        sampled = (metrics.get(f"{role}/{stage}_tokens", 0.0) for stage in ("rollout", "votes"))
        self._tokens += sum(map(float, sampled))
        seconds = (self.now() - self._stage_began) / max(step, 1)
        self._step_facts = [f"step {step}/{steps}"]
        self._step_facts += [f"{name.replace('_', ' ')} {value:.3f}" for name, value in found.items()]
        self._step_facts += [f"{seconds:.3g} s/step"]
        if step >= steps:
            self._say(self._describe_phase(trainer, pl_module, found, seconds * step))
            self._step_facts = []
        else:
            self._step_facts += self._time_left(trainer, pl_module, seconds * (steps - step))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Note how long the phase took, with all that belongs to it; show again what a validation has interrupted."""
        self._phase_seconds[pl_module.phase.role] = self.now() - self._phase_began
        self._phase_began, self._step_facts = self.now(), []
        self._start(trainer, pl_module)

    def on_sanity_check_end(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Show again."""
        self._phase_began = self.now()
        self._start(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Start to show; within a fit that has been done."""
        self._stage_began = self.now()
        self._start(trainer, pl_module)

    on_test_start = on_validation_start

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Say that all is answered; judges may follow."""
        self._say(f"{_evaluation(trainer, pl_module)} · answered in {span(self.now() - self._stage_began)}")

    on_test_epoch_end = on_validation_epoch_end

    def on_validation_end(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Make room for others to print their results; outside a terminal a fit goes on."""
        self._clear()
        if trainer.state.fn != TrainerFn.FITTING:
            self._stop()

    on_test_end = on_validation_end

    def on_fit_end(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Stop before others print their results."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: GRPOModule, exception: BaseException) -> None:
        """Leave the terminal as it was."""
        self._stop()

    def teardown(self, trainer: Trainer, pl_module: GRPOModule, stage: str) -> None:
        """Leave the terminal as it was."""
        self._stop()

    def _describe_phase(self, trainer: Trainer, module: GRPOModule, last: dict[str, float], seconds: float) -> str:
        """How a phase went: metrics of its first and last step, tokens sampled for it, and the time left of the run."""
        steps = module.role.config.steps
        changes = [
            f"{self._first[name]:.3f} → {value:.3f}" if steps > 1 else f"{value:.3f}" for name, value in last.items()
        ]
        facts = [f"{name.replace('_', ' ')} {change}" for name, change in zip(last, changes, strict=True)]
        rate = [f"{self._tokens / seconds:.0f} sampled tokens/s"] if self._tokens and seconds else []
        return " · ".join(
            [
                _phase(module),
                f"{steps} step{'s' * (steps > 1)} done in {span(seconds)}",
                *facts,
                *rate,
                *self._time_left(trainer, module),
            ]
        )

    def _start(self, trainer: Trainer, module: GRPOModule) -> None:
        if not self._enabled or self._live is not None or self._speaker is not None:
            return
        if CONSOLE.is_terminal:
            line = _Line(self, trainer, module)
            self._live = Live(line, console=CONSOLE, refresh_per_second=self.refresh_per_second, transient=True)
            self._live.start()
        else:
            self._speaker = _Speaker(self.seconds_between_lines, lambda: self._say(self.describe(trainer, module)))
            self._speaker.start()

    def _say(self, line: str) -> None:
        if self._enabled and self._live is None:
            logger.info("%s", line)

    def _clear(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _stop(self) -> None:
        self._clear()
        if self._speaker is not None:
            self._speaker.stop()
            self._speaker = None

    def _time_left(self, trainer: Trainer, module: GRPOModule, of_phase: float = 0.0) -> list[str]:
        """Time left of the phase, unless it is over, and, where phases like all to come are known, of the run."""
        role, turns = module.phase.role, list(module.roles)
        known = {role: self.now() - self._phase_began + of_phase} | self._phase_seconds
        to_come = max(0, (trainer.max_epochs or 0) - trainer.current_epoch - 1)
        coming = [turns[(turns.index(role) + 1 + n) % len(turns)] for n in range(to_come)]
        left = [f"{span(of_phase)} left in the phase"] if of_phase else []
        if coming and {*coming} <= known.keys():
            left += [f"about {span(of_phase + sum(known[each] for each in coming))} left in the run"]
        return left


class _Line:
    """Renders the state of the run as it is at every refresh."""

    def __init__(self, progress: PhaseProgress, trainer: Trainer, module: GRPOModule) -> None:
        self.progress, self.trainer, self.module = progress, trainer, module

    def __rich__(self) -> Any:
        text = Text(self.progress.describe(self.trainer, self.module))
        if self.trainer.evaluating or self.trainer.sanity_checking:
            return text
        grid = Table.grid(padding=(0, 1))
        grid.add_row(Bar(total=self.module.role.config.steps, completed=self.module.phase.step, width=20), text)
        return grid


class _Speaker(threading.Thread):
    """Says something every so many seconds, whatever the main thread is doing."""

    def __init__(self, seconds: float, say: Callable[[], None]) -> None:
        super().__init__(name="visplay-progress", daemon=True)
        self.seconds, self.say, self._ended = seconds, say, threading.Event()

    def run(self) -> None:
        while not self._ended.wait(self.seconds):
            self.say()

    def stop(self) -> None:
        self._ended.set()
        self.join()


def _phase(module: GRPOModule) -> str:
    return f"iteration {module.phase.iteration} · {module.phase.role}"


def _evaluation(trainer: Trainer, module: GRPOModule) -> str:
    if trainer.state.fn != TrainerFn.FITTING:
        return f"{'test' if trainer.testing else 'validation'} of {module.evaluated}"
    return "validation of the base" if trainer.sanity_checking else f"validation of iteration {module.phase.iteration}"
