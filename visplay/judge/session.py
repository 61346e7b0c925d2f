"""Many items asked of one endpoint: how many at a time, how often again, how long at most."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import secrets
import threading
import time
from collections.abc import Mapping

from visplay.judge.cache import VerdictCache
from visplay.judge.config import JudgeConfig, JudgeItem, JudgeUsage, Ruling
from visplay.judge.endpoint import Failure, load_openai, read_environment, status_failure
from visplay.judge.protocols import PROTOCOLS, MalformedReplyError, request_body

logger = logging.getLogger(__name__)
_DETAIL_CHARACTERS = 300


class Session:
    """One call of a judge.

    The client's own retries stay off: they neither count requests, nor ask again after a malformed reply, nor make
    other requests wait for a server that wants to be left alone.

    Args:
        config: Which model judges, and how.
        cache: Where rulings are looked up just before a request and kept right after it.

    Attributes:
        usage: Requests, tokens and failed requests so far.
        rulings: By content key.
        failures: Kinds of failure of the items that were given up, by content key.

    Raises:
        JudgeUnavailableError: The package or the environment is not there.
    """

    def __init__(self, config: JudgeConfig, cache: VerdictCache) -> None:
        self.usage = JudgeUsage()
        self.rulings: dict[str, Ruling] = {}
        self.failures: dict[str, str] = {}
        self._config, self._limits = config, config.limits
        self._cache = cache
        self._openai = load_openai()
        address, self._key = read_environment()
        self._client = self._openai.AsyncOpenAI(
            base_url=address, api_key=self._key, max_retries=0, timeout=config.limits.request_seconds
        )
        self._told: set[str] = set()
        self._free = asyncio.Semaphore(config.limits.concurrent_requests)
        self._random = random.Random()  # neither the run's seed nor the same on every rank
        self._resume_at = 0.0
        self._rejected = ""

    def run(self, items: Mapping[str, JudgeItem]) -> None:
        """Ask for a ruling on every item, by content key; what ``total_seconds`` ends fails ``out_of_time``.

        The event loop has a thread of its own, whatever loop the caller may be on. When the caller is interrupted the
        requests are cancelled and their end is awaited, so that nothing is left behind.
        """
        from anyio.from_thread import start_blocking_portal  # comes with the package openai

        with start_blocking_portal() as portal:
            portal.call(self._ask_all, items)
        for key in items:
            if key not in self.rulings:
                self.failures.setdefault(key, "out_of_time")

    async def _ask_all(self, items: Mapping[str, JudgeItem]) -> None:
        threading.current_thread().name = "visplay-judge"
        try:
            async with asyncio.timeout(self._limits.total_seconds), asyncio.TaskGroup() as group:
                for key, item in items.items():
                    group.create_task(self._decide(key, item))
        except TimeoutError:
            pass
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            await self._client.close()

    async def _decide(self, key: str, item: JudgeItem) -> None:
        async with self._free:
            if (known := self._cache.get(key)) is not None:  # another process was faster
                self.rulings[key] = known
                return
            answer = self._rejected or await self._ask(item)
            if isinstance(answer, Ruling):
                self._cache.put(key, answer)
                self.rulings[key] = answer
            else:
                self.failures[key] = answer

    async def _ask(self, item: JudgeItem) -> Ruling | str:
        """Ask until there is a ruling or the retries are used up; then the kind of the last failure.

        A server that wants to be left alone is left alone by all items.
        """
        limits, attempt = self._limits, 0
        longest = limits.longest_wait_seconds
        while True:
            while (pause := self._resume_at - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            answer = await self._request(item)
            if isinstance(answer, Ruling):
                return answer
            self._resume_at = max(self._resume_at, time.monotonic() + min(answer.retry_after_seconds, longest))
            if answer.fatal:
                self._rejected = answer.kind
            if not answer.retry or attempt >= limits.retries or answer.retry_after_seconds > longest:
                return answer.kind
            wait = min(limits.wait_seconds * 2.0 ** min(attempt, 64), longest)
            await asyncio.sleep(wait * self._random.uniform(0.5, 1.0))
            attempt += 1

    async def _request(self, item: JudgeItem) -> Ruling | Failure:
        """Ask once, under a nonce of its own."""
        self.usage.requests += 1
        openai, create = self._openai, self._client.chat.completions.with_raw_response.create
        body = request_body(self._config, item, nonce=secrets.token_hex(8))
        detail: Exception | None = None
        try:
            async with asyncio.timeout(self._config.limits.request_seconds):
                raw = await create(model=body["model"], messages=body["messages"], extra_body=body)
            answer = self._read(raw.http_response.text, item.graded)
        except (TimeoutError, openai.APITimeoutError):
            answer = Failure("timed_out")
        except openai.APIStatusError as error:
            answer, detail = status_failure(error.status_code, error.response.headers, error.code), error
        except openai.APIError as error:
            answer, detail = Failure("connection"), error
        if isinstance(answer, Failure):
            self.usage.failed_requests[answer.kind] += 1
            if detail and answer.kind not in self._told:  # the first of a kind, without the key
                self._told.add(answer.kind)
                text = str(detail).replace(self._key, "***")[:_DETAIL_CHARACTERS]
                logger.warning("judge: %s: %s", answer.kind, text)
        return answer

    def _read(self, text: str, graded: bool) -> Ruling | Failure:
        """Read a chat completion, counting its tokens."""
        try:
            completion = json.loads(text)
            choice = completion["choices"][0]
            content = choice["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError):
            return Failure("malformed")
        usage = completion.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if isinstance(read, int) and isinstance(written, int):
            self.usage.prompt_tokens += read
            self.usage.completion_tokens += written
        else:
            self.usage.unreported_requests += 1
        if not isinstance(content, str):
            return Failure("malformed")
        try:
            return PROTOCOLS[self._config.protocol].read(content, graded)
        except MalformedReplyError as error:
            return Failure("truncated" if choice.get("finish_reason") == "length" else error.kind)
