"""One run in a directory, and one process at a time that works on it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from visplay.callbacks.run_record import RUN_FILE
from visplay.data.locking import locked

_LOCK_FILE = "run.lock"


def starting(root: str) -> AbstractContextManager[None]:
    """Let commands that write below ``root`` decide one after another which run they begin or continue."""
    return locked(Path(root) / ".start.lock", wait=True)


def owned(directory: Path) -> AbstractContextManager[None]:
    """Have a run's directory while the block runs; a LockedError if another process has it."""
    return locked(directory / _LOCK_FILE)


def check_idle(directories: Iterable[Path]) -> None:
    """See that no process works on any of some runs; a LockedError if one does."""
    for directory in directories:
        if (directory / _LOCK_FILE).is_file():
            with owned(directory):
                pass


def check_unused(directory: Path) -> None:
    """See that a directory holds no run; a FileExistsError if it does."""
    if (directory / RUN_FILE).is_file() or any(directory.glob("checkpoints/*.ckpt")):
        raise FileExistsError(
            f"trainer.logger, trainer.default_root_dir: {str(directory)!r} holds a run already; continue it with "
            "--auto_resume or --ckpt_path=last, or give another directory"
        )
