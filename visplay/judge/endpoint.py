"""One request to a chat-completions endpoint: a ruling, or why there is none."""

from __future__ import annotations

import asyncio
import email.utils
import json
import logging
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from visplay.judge.config import JudgeConfig, JudgeItem, JudgeUsage, Ruling
from visplay.judge.protocols import PROTOCOLS, MalformedReplyError, request_body

logger = logging.getLogger(__name__)
ADDRESS, KEY = "OPENAI_BASE_URL", "OPENAI_API_KEY"
_FATAL = (401, 402, 404)  # key, credit or model: no row can be judged
_NO_CREDIT = "insufficient_quota"  # OpenAI's code for it, under status 429
_SERVER = (408, 409)  # besides 5xx
_DETAIL_CHARACTERS = 300


class JudgeUnavailableError(RuntimeError):
    """A judge is asked for, and the package or an environment variable that it needs is missing."""


@dataclass(frozen=True)
class Fault:
    """Why a request brought no ruling.

    Args:
        kind: One of ``visplay.judge.config.FAILURES``.
        again: Whether another attempt may succeed.
        fatal: Whether every other request must fail likewise.
        retry_after_seconds: How long the server wants to be left alone.
    """

    kind: str
    again: bool = True
    fatal: bool = False
    retry_after_seconds: float = 0.0


def read_environment() -> tuple[str, str]:
    """The endpoint's address and key.

    Raises:
        JudgeUnavailableError: A variable is missing or blank, the address is not http(s) or carries credentials, or the
            key cannot be sent.
    """
    for name, example in {ADDRESS: "https://api.example.com/v1", KEY: "any word for a server without keys"}.items():
        if not os.environ.get(name, "").strip():
            raise JudgeUnavailableError(f"{name}: the judge needs this environment variable ({example})")
    address, key = os.environ[ADDRESS].strip(), os.environ[KEY].strip()
    if not _is_address(address):
        raise JudgeUnavailableError(f"{ADDRESS}: must look like https://api.example.com/v1, without user or password")
    if not (key.isascii() and key.isprintable()):  # it travels in a header
        raise JudgeUnavailableError(f"{KEY}: must be printable ASCII")
    return address, key


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        usable = bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
    except ValueError:  # the port is no number, or a bracket is missing
        return False
    return usable and parts.scheme in ("http", "https")


def load_openai() -> Any:
    """Import the client's package.

    Raises:
        JudgeUnavailableError: It is not installed.
    """
    try:
        import openai
    except ModuleNotFoundError as error:
        raise JudgeUnavailableError("openai: the judge needs this package; pip install 'visplay[judge]'") from error
    return openai


class Endpoint:
    """A connection to a judge for one call; an asynchronous context manager.

    Args:
        config: Which model judges, and how.
        usage: Where requests, tokens and failures are counted.

    Raises:
        JudgeUnavailableError: The package or the environment is not there.
    """

    def __init__(self, config: JudgeConfig, usage: JudgeUsage) -> None:
        self.config = config
        self.usage = usage
        self._protocol = PROTOCOLS[config.protocol]
        self._openai = load_openai()
        address, self._key = read_environment()
        self._client = self._openai.AsyncOpenAI(
            base_url=address, api_key=self._key, max_retries=0, timeout=config.limits.request_seconds
        )
        self._told: set[str] = set()

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def request(self, item: JudgeItem) -> Ruling | Fault:
        """Ask once, under a nonce of its own."""
        self.usage.requests += 1
        answer = await self._request(item)
        if isinstance(answer, Fault):
            self.usage.failed_requests[answer.kind] += 1
        return answer

    async def _request(self, item: JudgeItem) -> Ruling | Fault:
        openai, create = self._openai, self._client.chat.completions.with_raw_response.create
        body = request_body(self.config, item, nonce=secrets.token_hex(8))
        try:
            async with asyncio.timeout(self.config.limits.request_seconds):
                raw = await create(model=body["model"], messages=body["messages"], extra_body=body)
            return self._read(raw.http_response.text, item.graded)
        except (TimeoutError, openai.APITimeoutError):
            return Fault("timed_out")
        except openai.APIStatusError as error:
            return self._tell(_status_fault(error.status_code, error.response.headers, error.code), error)
        except openai.APIError as error:
            return self._tell(Fault("connection"), error)

    def _read(self, text: str, graded: bool) -> Ruling | Fault:
        """Read a chat completion, counting its tokens."""
        try:
            completion = json.loads(text)
            choice = completion["choices"][0]
            content = choice["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError):
            return Fault("malformed")
        self._count_tokens(completion)
        if not isinstance(content, str):
            return Fault("malformed")
        try:
            return self._protocol.read(content, graded)
        except MalformedReplyError as error:
            return Fault("cut_off" if choice.get("finish_reason") == "length" else error.kind)

    def _count_tokens(self, completion: dict[str, Any]) -> None:
        usage = completion.get("usage")
        reported: dict[str, Any] = usage if isinstance(usage, dict) else {}
        read, written = reported.get("prompt_tokens"), reported.get("completion_tokens")
        if isinstance(read, int) and isinstance(written, int):
            self.usage.prompt_tokens += read
            self.usage.completion_tokens += written
        else:
            self.usage.unreported_requests += 1

    def _tell(self, fault: Fault, error: Exception) -> Fault:
        """Log the first fault of a kind, with what the server says of it and without the key."""
        if fault.kind not in self._told:
            self._told.add(fault.kind)
            logger.warning("judge: %s: %s", fault.kind, str(error).replace(self._key, "***")[:_DETAIL_CHARACTERS])
        return fault


def _status_fault(status: int, headers: Mapping[str, str], code: str | None = None) -> Fault:
    """What a status that is no success means, and the code that the server may give with it.

    Example:
        >>> _status_fault(429, {"retry-after": "7"})
        Fault(kind='rate_limited', again=True, fatal=False, retry_after_seconds=7.0)
        >>> _status_fault(401, {})
        Fault(kind='rejected', again=False, fatal=True, retry_after_seconds=0.0)
    """
    if code == _NO_CREDIT:
        return Fault("rejected", again=False, fatal=True)
    if status == 429 or status in _SERVER or status >= 500:
        kind = "rate_limited" if status == 429 else "server_error"
        return Fault(kind, retry_after_seconds=_read_retry_after(headers.get("retry-after", "")))
    return Fault("rejected", again=False, fatal=status in _FATAL)


def _read_retry_after(value: str) -> float:
    """Seconds from now, from a number of seconds or a date; 0 where it is neither.

    Example:
        >>> _read_retry_after("1.5"), _read_retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), _read_retry_after("soon")
        (1.5, 0.0, 0.0)
    """
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return seconds if seconds > 0 else 0.0
