"""A progress line that says iteration, phase, stage and step, or which benchmark is being answered."""

from __future__ import annotations

from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar as Bar
from rich.table import Table
from rich.text import Text

from visplay.modules.training import GRPOModule


class PhaseProgress(ProgressBar):
    """Shows what is being done now; in a terminal only, where the line can be redrawn.

    Args:
        refresh_per_second: How often the line is redrawn.
    """

    def __init__(self, refresh_per_second: float = 4.0) -> None:
        super().__init__()
        self.refresh_per_second = refresh_per_second
        self._live: Live | None = None
        self._enabled = True

    def disable(self) -> None:
        """Show nothing."""
        self._enabled = False

    def enable(self) -> None:
        """Show the line."""
        self._enabled = True

    def on_fit_start(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Start to show."""
        self._start(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Start to show; within a fit that has been done."""
        self._start(trainer, pl_module)

    on_test_start = on_validation_start

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Stop before others print their results; a fit goes on."""
        if trainer.state.fn != TrainerFn.FITTING:
            self._stop()

    def on_test_epoch_end(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Stop before others print their results."""
        self._stop()

    def on_fit_end(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Stop before others print their results."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: GRPOModule, exception: BaseException) -> None:
        """Leave the terminal as it was."""
        self._stop()

    def teardown(self, trainer: Trainer, pl_module: GRPOModule, stage: str) -> None:
        """Leave the terminal as it was."""
        self._stop()

    def _start(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        console = Console(stderr=True)
        if self._enabled and self._live is None and console.is_terminal:
            line = _Line(trainer, pl_module)
            self._live = Live(line, console=console, refresh_per_second=self.refresh_per_second, transient=True)
            self._live.start()

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


class _Line:
    """Renders the state of the run as it is at every refresh."""

    def __init__(self, trainer: Trainer, module: GRPOModule) -> None:
        self.trainer = trainer
        self.module = module

    def __rich__(self) -> Any:
        module, total = self.module, self.module.role.config.steps
        grid = Table.grid(padding=(0, 1))
        if self.trainer.evaluating or self.trainer.sanity_checking:
            stage = "test" if self.trainer.testing else "validation"
            return Text(f"{stage} · {module.clock.note}" if module.clock.note else stage)
        bar = Bar(total=total, completed=module.phase_step, width=30)
        grid.add_row(describe(module), bar, f"step {module.phase_step}/{total}")
        return Group(grid)


def describe(module: GRPOModule) -> str:
    """Iteration, phase and stage, in words."""
    stage = " ".join(part for part in (module.clock.stage, module.clock.note) if part)
    return f"iteration {module.phase.iteration} · {module.phase.role}" + (f" · {stage}" if stage else "")
