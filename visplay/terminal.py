"""Where people read what a command does: a terminal, or the lines of a log file."""

from __future__ import annotations

import logging

import datasets
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

CONSOLE = Console(stderr=True)
"""Shared by the log and the line that is redrawn, so that one does not overwrite the other."""


class LineHandler(logging.Handler):
    """Writes one line per message, with its time; nothing is wrapped, padded or coloured."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write the message to the present standard error."""
        CONSOLE.print(self.format(record), soft_wrap=True, markup=False, highlight=False, emoji=False)


def set_up_log() -> None:
    """Show this package's log on standard error, and no libraries' progress bars or advertisements."""
    disable_progress_bar()
    datasets.disable_progress_bars()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_tip)
    log = logging.getLogger("visplay")
    if not log.handlers:
        log.addHandler(LineHandler())
        log.setLevel(logging.INFO)


def _is_no_tip(record: logging.LogRecord) -> bool:
    return "Tip: For seamless" not in record.getMessage()
