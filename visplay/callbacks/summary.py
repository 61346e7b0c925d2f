"""A row per iteration: how well the Reasoner answers, and what it was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from rich.table import Table

from visplay.callbacks.logging import log_scalars, run_directory
from visplay.callbacks.self_play import SelfPlay
from visplay.data.files import replacing
from visplay.data.generated import GeneratedDataset
from visplay.modules.training import GRPOModule
from visplay.terminal import Terminal
from visplay.viewing.run_files import SUMMARY_FILE

_WIDTH = 200
"""Columns of a table where no terminal says how many there are."""


class Summary(Callback):
    """Writes ``summary.json`` into the run's directory after every validation, and shows it as a table.

    The base comes first, as iteration 0; it is what the trainer's sanity check evaluates when
    ``num_sanity_val_steps`` is -1. A run that is continued has no such check, and goes on with the rows it had.

    Args:
        scores: Column of the summary to metric of the validation: ``heldout_greedy: val/heldout/rule_accuracy``; null
            is ``summary_scores`` of the data module, or ``rule_accuracy`` of every benchmark.
    """

    def __init__(self, scores: Mapping[str, str] | None = None) -> None:
        self.scores = scores
        self.rows: list[dict[str, Any]] = []

    def on_validation_end(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Add the row of the iteration that was validated, within a fit, and show all."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        iteration = 0 if trainer.sanity_checking else pl_module.phase.iteration
        scores = pl_module.scores
        columns = self.scores or trainer.datamodule.summary_scores
        columns = columns or {key.split("/")[1]: key for key in scores if key.endswith("/rule_accuracy")}
        row = {"iteration": iteration} | {name: scores.get(key) for name, key in columns.items()}
        row |= dict.fromkeys(("valid_fraction", "mean_confidence", "kept", "silver_accuracy"))
        row |= self._curation(trainer, iteration) if iteration else {}
        others = [each for each in self.rows if each["iteration"] != iteration]
        self.rows = sorted([*others, row], key=lambda each: each["iteration"])
        path = self.path(trainer)
        if trainer.is_global_zero:
            with replacing(path) as file:
                file.write(json.dumps(self.rows, indent=2).encode())
            _stdout().print(_as_table(self.rows))

    def on_fit_end(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Show where to look further."""
        path, log = self.path(trainer), trainer.log_dir
        if self.rows and trainer.is_global_zero:
            _stdout().print(f"summary: {path}", soft_wrap=True)
        if log and trainer.is_global_zero:
            _stdout().print(f"tensorboard --logdir {log}", soft_wrap=True)
            _stdout().print("at a glance: http://localhost:6006/#custom_scalars", soft_wrap=True)

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Undo ``state_dict``."""
        self.rows = state_dict["rows"]

    @staticmethod
    def path(trainer: Trainer) -> Path:
        """Where the summary is written."""
        return run_directory(trainer) / SUMMARY_FILE

    def _curation(self, trainer: Trainer, iteration: int) -> dict[str, Any]:
        """What the iteration's data set was like; the truth, where it is known, is looked up only here."""
        self_play = next(c for c in trainer.callbacks if isinstance(c, SelfPlay))
        if self_play.dataset is None:
            return {}
        facts: dict[str, Any] = {
            name: self_play.statistics[name] for name in ("valid_fraction", "mean_confidence", "kept")
        }
        silver = trainer.datamodule.silver_accuracy(GeneratedDataset(self_play.dataset))
        if silver is not None:
            log_scalars(trainer, "curation", {"silver_accuracy": silver}, iteration)
        return facts | {"silver_accuracy": silver}


def _stdout() -> Terminal:
    console = Terminal()
    return console if console.is_terminal else Terminal(width=_WIDTH)


def _as_table(rows: list[dict[str, Any]]) -> Table:
    """One column per iteration, so that the names fit a narrow terminal."""
    title = "Self-play, iteration by iteration"
    table = Table("", title=title, min_width=len(title) + 2)
    for row in rows:
        table.add_column(f"iteration {row['iteration']}" if row["iteration"] else "base", justify="right")
    names = dict.fromkeys(name for row in rows for name in row if name != "iteration")
    for name in [name for name in names if any(row.get(name) is not None for row in rows)]:
        table.add_row(name, *(_cell(row.get(name)) for row in rows))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
