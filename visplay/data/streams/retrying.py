"""Calls that may fail for a while, or hang, as reading over a network does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def call_again(call: Callable[[], T], retries: int, pause_seconds: float) -> T:
    """Call until it does not raise; what the last call raises is raised.

    Args:
        call: What may fail.
        retries: Calls after the first.
        pause_seconds: Before the second call; doubles with each.

    Example:
        >>> answers = iter(["a number", "5"])
        >>> call_again(lambda: int(next(answers)), retries=1, pause_seconds=0)
        5
    """
    for attempt in range(retries):
        try:
            return call()
        except Exception:  # whatever a library raises that reads a file or asks a server
            time.sleep(pause_seconds * 2**attempt)
    return call()


def call_within(call: Callable[[], T], timeout_seconds: float) -> T:
    """Call in a thread of its own, which is left behind where it hangs; a ``TimeoutError`` then."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return result.result(timeout_seconds)
    except TimeoutError:
        if result.done():
            raise
        raise TimeoutError(f"no answer within {timeout_seconds:g} seconds") from None
