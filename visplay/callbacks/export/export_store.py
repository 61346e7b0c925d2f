"""The directory of a run's exports: each written whole or not at all, the best one known, the disk watched."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visplay.data.files import replacing, write_whole

_GIB = 1 << 30


class DiskBudgetError(OSError):
    """An export does not fit the budget or the disk; nothing was written."""


@dataclass(frozen=True)
class Retention:
    """Which exports stay.

    Args:
        last: Latest iterations that stay.
        metric: Metric of the validation that decides which iteration is the best, which stays too, such as
            ``val/heldout/rule_accuracy``; null keeps no best one.
        highest: Whether the highest value is the best, or the lowest.
        max_gib: Most that all exports may take, in GiB; null leaves it to the disk.

    Raises:
        ValueError: Nothing would stay, or the budget is not positive.
    """

    last: int = 1
    metric: str | None = None
    highest: bool = True
    max_gib: float | None = None

    def __post_init__(self) -> None:
        """Reject to keep nothing."""
        if self.last < 1:
            raise ValueError(f"last: {self.last} must be at least 1")
        if self.max_gib is not None and not self.max_gib > 0:
            raise ValueError(f"max_gib: {self.max_gib} must be above 0, or null")

    @property
    def most(self) -> int:
        """Most iterations that are on the disk at a time: those that stay, and the one being written."""
        return self.last + (self.metric is not None) + 1


class ExportStore:
    """Exports by iteration and role, ``directory/iteration-<n>/<role>``, and ``exports.json``, which lists them.

    Args:
        directory: Where they are.
        keep: Which stay.
    """

    def __init__(self, directory: Path, keep: Retention) -> None:
        self.directory = directory
        self.keep = keep

    @property
    def scores(self) -> dict[int, float | None]:
        """The metric of every iteration that is there."""
        path = self.directory / "exports.json"
        found = json.loads(path.read_text(encoding="utf-8"))["scores"] if path.is_file() else {}
        scores = {int(iteration): score for iteration, score in found.items()}
        return {iteration: score for iteration, score in scores.items() if self.path(iteration).is_dir()}

    @property
    def best(self) -> int | None:
        """The best iteration, the first of equals; None where none has a score."""
        return best_of(self.scores, self.keep.highest)

    def path(self, iteration: int, role: str | None = None) -> Path:
        """Of an iteration, or of a role's export of it."""
        directory = self.directory / f"iteration-{iteration}"
        return directory if role is None else directory / role

    def check_plan(self, needed_bytes: int, iterations: int, first: int = 1) -> None:
        """See before a run that its exports will fit, and are not mixed with those of another one.

        Args:
            needed_bytes: Of the exports of one iteration.
            iterations: Of the run.
            first: The iteration that it begins in; a resumed run replaces what there is of this one.

        Raises:
            DiskBudgetError: They will not.
            ValueError: There are exports of later iterations.
        """
        if later := sorted(iteration for iteration in self.scores if iteration > first):
            raise ValueError(
                f"directory: {str(self.directory)!r} has exports of iterations {later}, and this run begins in "
                f"iteration {first}; give another directory, or remove them"
            )
        most = needed_bytes * min(self.keep.most, iterations)
        if self.keep.max_gib is not None and most > self.keep.max_gib * _GIB:
            raise DiskBudgetError(
                f"max_gib: {self.keep.max_gib:g} GiB is less than the {most / _GIB:.2f} GiB of "
                f"{min(self.keep.most, iterations)} iterations; raise it, or lower keep.last or the dtype"
            )
        check_disk(self.directory, most - directory_bytes(self.directory))

    def write(self, iteration: int, role: str, needed_bytes: int, write: Callable[[Path], None]) -> Path:
        """Write an export, instead of an earlier one of the same iteration and role.

        Args:
            iteration: After which it was learned.
            role: Whose policy it is.
            needed_bytes: At most how many bytes it takes.
            write: Writes it into a directory that is there.

        Raises:
            DiskBudgetError: It does not fit; nothing was written.
        """
        path, scores = self.path(iteration, role), self.scores
        for left in self.directory.glob("iteration-*/.*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        there = directory_bytes(self.directory) - directory_bytes(path)
        if self.keep.max_gib is not None and there + needed_bytes > self.keep.max_gib * _GIB:
            raise DiskBudgetError(
                f"max_gib: {there / _GIB:.2f} GiB are there and {needed_bytes / _GIB:.2f} GiB are needed, more than "
                f"{self.keep.max_gib:g} GiB; raise it, or lower keep.last or the dtype"
            )
        check_disk(self.directory, needed_bytes)
        write_whole(path, write)
        scores.setdefault(iteration, None)
        self._note(scores)
        return path

    def finish(self, iteration: int, score: float | None) -> None:
        """Note the score of an iteration that is complete, and let go what does not stay."""
        scores = self.scores
        known = None if score is None or not math.isfinite(score) else score  # JSON has no other numbers
        scores |= {iteration: known} if iteration in scores else {}
        best = best_of(scores, self.keep.highest) if self.keep.metric is not None else None
        for gone in sorted(scores)[: -self.keep.last]:
            if gone != best:
                shutil.rmtree(self.path(gone), ignore_errors=True)
                del scores[gone]
        self._note(scores)

    def _note(self, scores: dict[int, float | None]) -> None:
        facts: dict[str, Any] = {"metric": self.keep.metric, "best": best_of(scores, self.keep.highest)}
        facts["scores"] = {str(each): scores[each] for each in sorted(scores)}
        with replacing(self.directory / "exports.json") as file:
            file.write(json.dumps(facts, indent=2).encode())


def best_of(scores: dict[int, float | None], highest: bool = True) -> int | None:
    """The iteration with the best score, the first of equals; None where none has one that is a number.

    Example:
        >>> best_of({1: 0.5, 2: 0.7, 3: None, 4: 0.7, 5: float("nan")})
        2
    """
    known = {n: score for n, score in sorted(scores.items()) if score is not None and math.isfinite(score)}
    sign = 1.0 if highest else -1.0
    return max(known, key=lambda iteration: sign * known[iteration], default=None)


def directory_bytes(directory: Path) -> int:
    """Bytes of all files in a directory; 0 where there is none."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def check_disk(directory: Path, needed_bytes: int) -> None:
    """See that the disk of a directory, which need not be there yet, has room.

    Raises:
        DiskBudgetError: It has not.
    """
    there = next(each for each in (directory, *directory.absolute().parents) if each.exists())
    free = shutil.disk_usage(there).free
    if free < needed_bytes:
        raise DiskBudgetError(
            f"an export needs {needed_bytes / _GIB:.2f} GiB, and the disk of {str(directory)!r} has "
            f"{free / _GIB:.2f} GiB"
        )
