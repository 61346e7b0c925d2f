"""The end of one rank is the end of all: at once, with one message, whichever backend the others wait in.

A rank that waits in a collective for one that failed hears of it late and not why: under gloo that a connection was
closed, under NCCL nothing before the time limit. So every rank has a thread that counts in the store of the process
group, sees that the count of the next rank moves, and ends the process where another has failed or is lost.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType, TracebackType
from typing import Any

from lightning import Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch import distributed

logger = logging.getLogger(__name__)

LOST_SECONDS = 120
"""A rank that does not count for so long, or for the time limit of collectives if that is shorter, is lost."""

_BEAT_SECONDS = 1.0
_SUSPECT_BEATS = 5
_VERDICT_SECONDS = 15.0
_FAREWELL_SECONDS = 5.0
_FINISHED = b"finished"


class RankWatch:
    """Watches over the ranks of a trainer while the block runs; of a single rank nothing.

    The first rank that fails says so, and the others end without a word of theirs. Where one is killed or stopped, or
    its machine is gone, the rank before it says so. An error of the connection is seldom the first one: a rank that has
    one leaves the word to others for a moment.

    Args:
        trainer: Whose ranks.
        how_it_goes_on: What the message about a lost rank ends with.
    """

    def __init__(self, trainer: Trainer, how_it_goes_on: Callable[[], str] = str) -> None:
        self.rank, self.ranks = trainer.global_rank, trainer.world_size
        self._launcher = trainer.strategy.launcher
        self._how_it_goes_on = how_it_goes_on
        self._thread = threading.Thread(target=self._watch, name="rank-watch", daemon=True)
        self._store: Any = None
        self._children: list[Any] = []
        self._beats = self._unmoved = 0
        self._next = b""
        self._finished = self._speaks = False
        self._ready, self._over = threading.Event(), threading.Event()

    def __enter__(self) -> RankWatch:
        """Begin; the process group may come later."""
        if self.ranks > 1:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End with the others: all have finished, or this one has failed."""
        if self.ranks == 1 or not distributed.is_initialized():
            self._over.set()
            return
        self._ready.wait()
        if error is None:
            self._finished = True
            self._thread.join(LOST_SECONDS)
        else:
            if isinstance(error, SystemExit) and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # told again, it must still see that the others end
            self._fail(error)
            self._over.set()

    def answer(self, signum: int, frame: FrameType | None) -> None:
        """As a handler of SIGTERM: rank 0 ends, and with it all; another rank leaves that to it, and works on."""
        if self.rank == 0:
            raise SystemExit(128 + signum)
        self._store.set("signal", str(signum))

    def _watch(self) -> None:
        """What the thread does."""
        while not distributed.is_initialized():
            if self._over.wait(_BEAT_SECONDS):
                return
        if isinstance(self._launcher, _SubprocessScriptLauncher):
            # Lightning's own observer, which would kill all without a word, has none left to look at
            self._children = list(self._launcher.procs)
            self._launcher.procs.clear()
        self._store = distributed.distributed_c10d._get_default_store().clone()  # type: ignore[attr-defined]
        self._ready.set()
        limit_seconds = min(LOST_SECONDS, self._store.timeout.total_seconds())
        with ThreadPoolExecutor(1) as pool:  # a store whose process was stopped never answers
            while not self._over.wait(_BEAT_SECONDS):
                try:
                    pool.submit(self._beat, limit_seconds).result(limit_seconds)
                except (distributed.DistError, TimeoutError) as error:
                    if self._speaks and isinstance(error, distributed.DistError):
                        return  # the others have ended, as they were told, before this one has said why
                    if self.rank == self.ranks - 1:
                        self._say_lost("rank 0, which has the store of the group,")
                    os._exit(1)

    def _beat(self, limit_seconds: float) -> None:
        """Count, and look at the others; it does not return where another has failed or is lost."""
        store = self._store
        self._beats += 1
        store.set(f"beat {self.rank}", _FINISHED if self._finished else str(self._beats))
        if store.check(["failure"]):
            self._follow()
        elif self._finished and (self.rank or self._all_finished()):
            self._over.set()
        elif (lost := self._find_lost(limit_seconds)) and self._is_first(1):
            self._say_lost(lost)
            self._take_leave(self.ranks - 2)
            os._exit(1)
        if self.rank == 0 and store.check(["signal"]):
            os.kill(os.getpid(), int(store.get("signal")))
            store.delete_key("signal")

    def _find_lost(self, limit_seconds: float) -> str | None:
        """A process that this one has started, or the next rank, which is the first for the last one."""
        for number, child in enumerate(self._children, self.rank + 1):
            if child.poll():
                return f"rank {number}, which ended with {child.returncode},"
        store, following = self._store, (self.rank + 1) % self.ranks
        found = store.get(f"beat {following}") if store.check([f"beat {following}"]) else b""
        self._unmoved = self._unmoved + 1 if found == self._next != _FINISHED else 0
        self._next = found
        most = _SUSPECT_BEATS if store.check(["suspicion"]) else limit_seconds / _BEAT_SECONDS
        return f"rank {following}, silent for {self._unmoved} s," if self._unmoved > most else None

    def _say_lost(self, who: str) -> None:
        logger.error("%s is lost: killed, stopped, or its machine is gone. %s", who, self._how_it_goes_on())

    def _all_finished(self) -> bool:
        beats = [f"beat {rank}" for rank in range(self.ranks)]
        return self._store.check(beats) and set(self._store.multi_get(beats)) == {_FINISHED}

    def _fail(self, error: BaseException) -> None:
        """Tell the others that this rank has failed, unless another did first, and let them end before it does."""
        store = self._store
        try:
            if isinstance(error, distributed.DistError) or "gloo" in str(error):
                store.set("suspicion", "")
                store.set(f"waited {self.rank}", "")
                time.sleep(_VERDICT_SECONDS)
                waited_for = [rank for rank in range(self.ranks) if not store.check([f"waited {rank}"])]
                error.add_note(f"Ranks that the others waited for: {waited_for or 'none'}")
            elif self.rank:
                time.sleep(2 * _BEAT_SECONDS)  # where all fail alike, rank 0 speaks
            code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
            self._speaks = True  # before the others know
            if not self._is_first(code):
                self._speaks = False
                self._follow()
            error.add_note(f"It was rank {self.rank} of {self.ranks} that failed; the others end with it.")
        except distributed.DistError:  # the store is gone, of which the thread says more
            time.sleep(_VERDICT_SECONDS)
        self._take_leave(self.ranks - 1)

    def _is_first(self, code: int) -> bool:
        """Whether this rank is the first to say that the run ends."""
        own = json.dumps([self.rank, code]).encode()
        return self._store.compare_set("failure", "", own) == own

    def _follow(self) -> None:
        """End where another has failed; rank 0, which may have the store, after the others."""
        first, code = json.loads(self._store.get("failure"))
        if first != self.rank:
            self._store.add("ended", 1)
            self._take_leave(self.ranks - 1 if self.rank == 0 else 0)
            os._exit(code)

    def _take_leave(self, others: int) -> None:
        """Wait for so many others to end, but not long."""
        deadline = time.monotonic() + _FAREWELL_SECONDS
        try:
            while time.monotonic() < deadline and self._store.add("ended", 0) < others:
                time.sleep(_BEAT_SECONDS / 10)
        except distributed.DistError:  # rank 0 has ended
            pass
