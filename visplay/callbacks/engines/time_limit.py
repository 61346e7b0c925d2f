"""A time limit on calls of an engine in this process: what hangs is interrupted, or else the process ends."""

from __future__ import annotations

import faulthandler
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)

GRACE_SECONDS = 30.0
"""How long after its limit a call may go on that no signal reaches."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise when the body takes longer: wherever Python runs or waits.

    A call that never returns to Python, one of a driver that hangs say, cannot be interrupted from within. Where it
    goes on for another ``GRACE_SECONDS``, the process ends with code 75 (``os.EX_TEMPFAIL``) and the stacks of all
    threads; the checkpoints are as they were.

    Args:
        seconds: The limit; None is none.

    Raises:
        TimeoutError: The time is over. Outside the main thread there is no limit.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: Any) -> None:
        raise TimeoutError(f"no step within {seconds:g} s (timeout_seconds)")

    start, previous = time.monotonic(), signal.signal(signal.SIGALRM, stop)
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    outer, _WATCHDOG.deadline = _WATCHDOG.deadline, start + seconds + GRACE_SECONDS
    _WATCHDOG.start_once()
    try:
        yield
    finally:
        _WATCHDOG.deadline = outer
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        if remaining:  # somebody else's alarm goes on
            signal.setitimer(signal.ITIMER_REAL, max(remaining - (time.monotonic() - start), 1e-3), interval)


class _Watchdog:
    """A thread that looks every second whether a deadline has passed, and ends the process then."""

    def __init__(self) -> None:
        self.deadline = math.inf
        self._process_id = 0

    def start_once(self) -> None:
        """Begin to look, in each process once."""
        if self._process_id != os.getpid():
            self._process_id = os.getpid()
            threading.Thread(target=self._look, name="visplay-watchdog", daemon=True).start()

    def _look(self) -> None:
        while time.monotonic() < self.deadline:
            time.sleep(1)
        logger.critical(
            "the engine hangs in a call that cannot be interrupted, beyond timeout_seconds: the process ends. The "
            "checkpoints are as they were; the same command with --auto_resume goes on from the last one"
        )
        faulthandler.dump_traceback()
        os._exit(os.EX_TEMPFAIL)


_WATCHDOG = _Watchdog()
