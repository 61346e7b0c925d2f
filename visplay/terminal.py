"""Where people read what a command does: a terminal, or the lines of a log file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import datasets
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from transformers.utils.logging import disable_progress_bar

from visplay.foreign_text import visible


class Terminal(Console):
    """A console on which text is text: it brings no markup, and no character that moves, colours or reorders others."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """As the base class does, with the control characters of texts visible."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text, keep="\n"))


CONSOLE = Terminal(stderr=True)
"""Shared by the log and the line that is redrawn, so that one does not overwrite the other."""


_SAYS_NOTHING = (
    "Tip: For seamless",
    "GPU available: False",
    "TPU available: False",
    "`Trainer.fit` stopped: `max_epochs=",
)


class LineHandler(logging.Handler):
    """Writes one line per message, with its time; nothing is wrapped, padded or coloured."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(_OneLine("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write the message to the present standard error."""
        CONSOLE.print(self.format(record), soft_wrap=True, highlight=False)


class _OneLine(logging.Formatter):
    """A message is one line, whatever is told of; the lines of a traceback follow it."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = visible(record.message)
        return super().formatMessage(record)


def set_up_log(level: int = logging.INFO) -> None:
    """Show this package's log on standard error, and no libraries' progress bars or advertisements."""
    disable_progress_bar()
    datasets.disable_progress_bars()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_says_something)
    log = logging.getLogger("visplay")
    if not log.handlers:
        log.addHandler(LineHandler())
        log.setLevel(level)


def _says_something(record: logging.LogRecord) -> bool:
    """Whether a message of the trainer is more than an advertisement, or about a device that nobody asked for."""
    return not any(words in record.getMessage() for words in _SAYS_NOTHING)
