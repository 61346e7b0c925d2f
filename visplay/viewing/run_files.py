"""Where a run's files are in its directory, and how the lines of its samples are written and cut off."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from visplay.data.files import json_line, naming
from visplay.types import PhaseState

RUN_FILE = "run.json"
PHASES_FILE = "phases.jsonl"
SUMMARY_FILE = "summary.json"
SAMPLES = "samples"
THUMBNAILS_FILE = "thumbnails.sqlite"
STEPS_FILE = "steps.jsonl"
MOST_CHARACTERS = 10_000
"""Of a text in a sample; more is cut off."""


class SampleFiles:
    """JSON lines in a run's directory: a file of every phase, with a group a line, and one of all steps.

    Args:
        run: The run's directory.
    """

    def __init__(self, run: Path) -> None:
        self.directory = run / SAMPLES

    def append(self, name: str, rows: Iterable[Mapping[str, Any]], most_bytes: int | None = None) -> bool:
        """Add lines to a file, all or none.

        Args:
            name: Of the file.
            rows: JSON values.
            most_bytes: Of the file with them; None has no limit.

        Returns:
            Whether they were added: False where the file would be larger.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / name
        lines = b"".join(json_line(dict(row)) for row in rows)
        size = path.stat().st_size if path.is_file() else 0
        if most_bytes is not None and size + len(lines) > most_bytes:
            return False
        with naming(path), path.open("ab") as file:
            file.write(lines)
        return True

    def position(self) -> dict[str, int]:
        """Bytes of each file, by name."""
        return {path.name: path.stat().st_size for path in self._files()}

    def cut(self, position: Mapping[str, int]) -> None:
        """Take away what was written after ``position``."""
        for path in self._files():
            if path.name not in position:
                path.unlink()
            elif path.stat().st_size > position[path.name]:
                os.truncate(path, position[path.name])

    def _files(self) -> list[Path]:
        return sorted(self.directory.glob("*.jsonl"))


def phase_file(phase: PhaseState) -> str:
    """Name of the file of a phase's samples.

    Example:
        >>> phase_file(PhaseState("reasoner", iteration=2)), phase_file(PhaseState("reasoner", attempt=1))
        ('iteration-2-reasoner.jsonl', 'iteration-1-reasoner-repeat-1.jsonl')
    """
    name = f"iteration-{phase.iteration}-{phase.role}"
    return f"{name}-repeat-{phase.attempt}.jsonl" if phase.attempt else f"{name}.jsonl"


def shown(text: str, most: int = MOST_CHARACTERS) -> str:
    """A text as it is kept: one of more characters ends with how many there were.

    Example:
        >>> shown("x" * 12_345)[-23:]
        'xxxxx… 12345 characters'
    """
    return text if len(text) <= most else f"{text[:most]}… {len(text)} characters"
