"""The judge: rows in, verdicts out, in the same order and under the same keys."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from visplay.judge.cache import VerdictCache
from visplay.judge.config import JudgeConfig, JudgeItem, JudgeUsage, Ruling, Verdict
from visplay.judge.endpoint import load_openai, read_environment
from visplay.judge.protocols import PROTOCOLS, content_key
from visplay.judge.session import Session

logger = logging.getLogger(__name__)
_BLANK, _BLANK_GRADED = "blank", "blank graded"
_BLANK_RULINGS = {_BLANK: Ruling(False), _BLANK_GRADED: Ruling(False, 0.0)}


class Judge:
    """Lets a chat model decide whether answers are right.

    No thread, connection or event loop outlives a call of ``judge``. Give it many rows at once: a call makes its own
    connections. Threads may share a judge; a copy starts with its own counts.

    Args:
        config: Which model judges, and how. Nothing is read or imported before the first row must be asked for.
    """

    def __init__(self, config: JudgeConfig) -> None:
        self.config = config
        self._cache = VerdictCache(None if config.cache_directory is None else Path(config.cache_directory))
        self._usage = JudgeUsage()
        self._lock = threading.Lock()

    def check_environment(self) -> None:
        """See early, before answers are generated, that the judge could be asked.

        Raises:
            JudgeUnavailableError: The package ``openai`` or an environment variable is missing.
        """
        load_openai()
        read_environment()

    def judge(self, items: Sequence[JudgeItem]) -> list[Verdict]:
        """Judge rows.

        A verdict is asked for once per content: equal rows share one, and one in the cache is not asked for again. An
        empty prediction is wrong and nobody is asked.

        Args:
            items: The rows; keys differ.

        Returns:
            One verdict per row, in the order of the rows. One whose judging failed has ``correct`` None and a reason:
            the verdict by rule stands.

        Raises:
            ValueError: Two rows have one key.
            JudgeUnavailableError: A row must be asked for, and the package or an environment variable is missing.
            OSError: The cache's disk fails.
        """
        if len({item.key for item in items}) != len(items):
            raise ValueError("items: the keys of rows to judge must differ")
        contents = {item.key: self._content(item) for item in items}
        known = {content: ruling for content in contents.values() if (ruling := self._look_up(content)) is not None}
        wanted = {contents[item.key]: item for item in items if contents[item.key] not in known}
        rulings, failures = self._ask(wanted)
        verdicts = [_decide(item.key, contents[item.key], known, rulings, failures) for item in items]
        self._count_rows(verdicts, blank_rows=sum(content.startswith(_BLANK) for content in contents.values()))
        return verdicts

    def drain_usage(self) -> JudgeUsage:
        """Return what judging has cost since the last call and start again at zero."""
        with self._lock:
            drained, self._usage = self._usage, JudgeUsage()
        return drained

    def __reduce__(self) -> tuple[type[Judge], tuple[JudgeConfig]]:
        return type(self), (self.config,)

    def _content(self, item: JudgeItem) -> str:
        """The cache's key of a row, or one that stands for no answer."""
        protocol = PROTOCOLS[self.config.protocol]
        if protocol.fields(item)["prediction"].strip():
            return content_key(self.config, item)
        return _BLANK_GRADED if item.graded and protocol.grades else _BLANK

    def _look_up(self, content: str) -> Ruling | None:
        return _BLANK_RULINGS.get(content) or self._cache.get(content)

    def _ask(self, wanted: Mapping[str, JudgeItem]) -> tuple[dict[str, Ruling], dict[str, str]]:
        """Rulings and kinds of failure by content key."""
        if not wanted:
            return {}, {}
        session = Session(self.config, self._cache)
        try:
            session.run(wanted)
        finally:
            self._count(session.usage)
        return session.rulings, session.failures

    def _count_rows(self, verdicts: Sequence[Verdict], blank_rows: int) -> None:
        failed = Counter(verdict.reason for verdict in verdicts if verdict.correct is None)
        cached = sum(verdict.cached for verdict in verdicts) - blank_rows
        self._count(JudgeUsage(rows=len(verdicts), cached_rows=cached, blank_rows=blank_rows, failed_rows=failed))
        if failed:
            logger.warning("judge: %d of %d rows have no verdict: %s", failed.total(), len(verdicts), dict(failed))

    def _count(self, usage: JudgeUsage) -> None:
        with self._lock:
            self._usage.add(usage)


def _decide(
    key: str, content: str, known: Mapping[str, Ruling], rulings: Mapping[str, Ruling], failures: Mapping[str, str]
) -> Verdict:
    """The verdict on the row ``key``."""
    ruling = known.get(content) or rulings.get(content)
    if ruling is None:
        return Verdict(key, None, reason=failures[content])
    return Verdict(key, ruling.correct, ruling.score, cached=content in known)
