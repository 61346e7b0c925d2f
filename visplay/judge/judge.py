"""The judge: items in, verdicts out, in the same order and under the same keys."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from visplay.judge.cache import VerdictCache
from visplay.judge.config import JudgeConfig, JudgeItem, JudgeUsage, Ruling, Verdict
from visplay.judge.endpoint import load_openai, read_environment
from visplay.judge.protocols import PROTOCOLS, content_key
from visplay.judge.session import Session

logger = logging.getLogger(__name__)
_BLANK_RULINGS = {"blank": Ruling(False), "blank graded": Ruling(False, 0.0)}


class Judge:
    """Lets a chat model decide whether answers are right.

    No thread, connection or event loop outlives a call of ``judge``. Give it many items at once: a call makes its own
    connections. Threads may share a judge; a copy starts with its own counts.

    Args:
        config: Which model judges, and how. Nothing is read or imported before the first item must be asked for.
    """

    def __init__(self, config: JudgeConfig) -> None:
        self.config = config
        self._cache = VerdictCache(None if config.cache_directory is None else Path(config.cache_directory))
        self._usage = JudgeUsage()
        self._lock = threading.Lock()

    def check_environment(self) -> None:
        """See early, before answers are generated, that the judge could be asked; else a JudgeUnavailableError."""
        load_openai()
        read_environment()

    def judge(self, items: Sequence[JudgeItem]) -> list[Verdict]:
        """Judge answers.

        A verdict is asked for once per content: equal items share one, and one in the cache is not asked for again. An
        empty prediction is wrong and nobody is asked.

        Args:
            items: Their keys differ.

        Returns:
            One verdict per item, in their order. One whose judging failed has ``correct`` None and a reason: the
            verdict by rule stands.

        Raises:
            ValueError: Two items have one key.
            JudgeUnavailableError: An item must be asked for, and the package or an environment variable is missing.
            OSError: The cache's disk fails.
        """
        if len({item.key for item in items}) != len(items):
            raise ValueError("items: the keys of items to judge must differ")
        contents = {item.key: self._content(item) for item in items}
        known = {
            content: ruling
            for content in contents.values()
            if (ruling := _BLANK_RULINGS.get(content) or self._cache.get(content)) is not None
        }
        rulings, failures = dict(known), dict[str, str]()
        if wanted := {contents[item.key]: item for item in items if contents[item.key] not in known}:
            session = Session(self.config, self._cache)
            try:
                session.run(wanted)
            finally:
                self._count(session.usage)
            rulings, failures = rulings | session.rulings, session.failures
        verdicts = [
            Verdict(key, rulings[content].correct, rulings[content].score, cached=content in known)
            if content in rulings
            else Verdict(key, None, reason=failures[content])
            for key, content in contents.items()
        ]
        failed = Counter(verdict.reason for verdict in verdicts if verdict.correct is None)
        blank = sum(content in _BLANK_RULINGS for content in contents.values())
        cached = sum(verdict.cached for verdict in verdicts) - blank
        self._count(JudgeUsage(len(items), cached_items=cached, blank_items=blank, failed_items=failed))
        if failed:
            logger.warning("judge: %d of %d items have no verdict: %s", failed.total(), len(items), dict(failed))
        return verdicts

    def drain_usage(self) -> JudgeUsage:
        """Return what judging has cost since the last call and start again at zero."""
        with self._lock:
            drained, self._usage = self._usage, JudgeUsage()
        return drained

    def __reduce__(self) -> tuple[type[Judge], tuple[JudgeConfig]]:
        return type(self), (self.config,)

    def _content(self, item: JudgeItem) -> str:
        """The cache's key of an item, or one that stands for no answer."""
        protocol = PROTOCOLS[self.config.protocol]
        if protocol.fields(item)["prediction"].strip():
            return content_key(self.config, item)
        return "blank graded" if item.graded and protocol.grades else "blank"

    def _count(self, usage: JudgeUsage) -> None:
        with self._lock:
            self._usage.add(usage)
