"""Many rows asked of one endpoint: how many at a time, how often again, how long at most."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from visplay.judge.cache import VerdictCache
from visplay.judge.config import JudgeConfig, JudgeItem, JudgeUsage, Ruling
from visplay.judge.endpoint import Endpoint, Fault

T = TypeVar("T")


class Session:
    """One call of a judge.

    Args:
        config: Which model judges, and how.
        cache: Where rulings are looked up just before a request and kept right after it.

    Attributes:
        usage: Requests, tokens and failed requests so far.
        rulings: By content key.
        failures: Kinds of failure of the rows that were given up, by content key.

    Raises:
        JudgeUnavailableError: The package or the environment is not there.
    """

    def __init__(self, config: JudgeConfig, cache: VerdictCache) -> None:
        self.usage = JudgeUsage()
        self.rulings: dict[str, Ruling] = {}
        self.failures: dict[str, str] = {}
        self._limits = config.limits
        self._cache = cache
        self._endpoint = Endpoint(config, self.usage)
        self._random = random.Random()  # neither the run's seed nor the same on every rank
        self._resume_at = 0.0
        self._rejected = ""

    def run(self, items: Mapping[str, JudgeItem]) -> None:
        """Ask for a ruling on every item, by content key; what ``total_seconds`` cuts off fails ``out_of_time``."""
        run_apart(self._ask_all(items))
        for key in items:
            if key not in self.rulings:
                self.failures.setdefault(key, "out_of_time")

    async def _ask_all(self, items: Mapping[str, JudgeItem]) -> None:
        rows = iter(items.items())
        async with self._endpoint:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limits.total_seconds):
                    workers = min(self._limits.concurrent_requests, len(items))
                    await _gather([self._work(rows) for _ in range(workers)])

    async def _work(self, rows: Iterator[tuple[str, JudgeItem]]) -> None:
        """Take rows that nobody has taken, one after the other."""
        for key, item in rows:
            if (known := self._cache.get(key)) is not None:  # another process was faster
                self.rulings[key] = known
                continue
            answer = self._rejected or await self._ask(item)
            if isinstance(answer, Ruling):
                self._cache.put(key, answer)
                self.rulings[key] = answer
            else:
                self.failures[key] = answer

    async def _ask(self, item: JudgeItem) -> Ruling | str:
        """Ask until there is a ruling or the retries are used up; then the kind of the last failure."""
        attempt = 0
        while True:
            while (pause := self._resume_at - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            answer = await self._endpoint.request(item)
            if isinstance(answer, Ruling):
                return answer
            if not self._heed(answer, attempt):
                return answer.kind
            await asyncio.sleep(self._back_off(attempt))
            attempt += 1

    def _heed(self, fault: Fault, attempt: int) -> bool:
        """Leave a server alone that wants it, for all rows, and say whether to ask again for this one."""
        longest = self._limits.longest_wait_seconds
        self._resume_at = max(self._resume_at, time.monotonic() + min(fault.retry_after_seconds, longest))
        if fault.fatal:
            self._rejected = fault.kind
        return fault.again and attempt < self._limits.retries and fault.retry_after_seconds <= longest

    def _back_off(self, attempt: int) -> float:
        wait = min(self._limits.wait_seconds * 2.0 ** min(attempt, 64), self._limits.longest_wait_seconds)
        return wait * self._random.uniform(0.5, 1.0)


def run_apart(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on an event loop and a thread of its own, whatever loop the caller may be on.

    When the caller is interrupted the coroutine is cancelled and its end awaited, so that nothing is left behind.
    """
    loop, ended = asyncio.new_event_loop(), threading.Event()
    task = loop.create_task(work)
    thread = threading.Thread(target=_drive, args=(loop, task, ended), name="visplay-judge", daemon=True)
    thread.start()
    try:
        ended.wait()  # Thread.join takes an interrupted wait for the thread's end (Python 3.11)
    except BaseException:
        with suppress(RuntimeError):  # the loop has just closed
            loop.call_soon_threadsafe(task.cancel)
        ended.wait()
        raise
    finally:
        thread.join()
    return task.result()


def _drive(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any], ended: threading.Event) -> None:
    try:
        loop.run_until_complete(asyncio.wait([task]))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
        ended.set()


async def _gather(work: list[Coroutine[Any, Any, None]]) -> None:
    """Run all; the first error cancels the rest and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in work:
                group.create_task(coroutine)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
