"""A chat-completions endpoint: where it is, and what its failures mean."""

from __future__ import annotations

import email.utils
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

ADDRESS, KEY = "OPENAI_BASE_URL", "OPENAI_API_KEY"


class JudgeUnavailableError(RuntimeError):
    """A judge is asked for, and the package or an environment variable that it needs is missing."""


@dataclass(frozen=True)
class Failure:
    """Why a request brought no ruling.

    Args:
        kind: One of ``visplay.judge.config.FAILURES``.
        retry: Whether another attempt may succeed.
        fatal: Whether every other request must fail likewise.
        retry_after_seconds: How long the server wants to be left alone.
    """

    kind: str
    retry: bool = True
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
    try:
        parts = urlsplit(address)
        usable = bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
    except ValueError:  # the port is no number, or a bracket is missing
        usable = False
    if not usable or parts.scheme not in ("http", "https"):
        raise JudgeUnavailableError(f"{ADDRESS}: must look like https://api.example.com/v1, without user or password")
    if not (key.isascii() and key.isprintable()):  # it travels in a header
        raise JudgeUnavailableError(f"{KEY}: must be printable ASCII")
    return address, key


def load_openai() -> Any:
    """Import the client's package; a JudgeUnavailableError if it is not installed."""
    try:
        import openai
    except ModuleNotFoundError as error:
        raise JudgeUnavailableError("openai: the judge needs this package; pip install 'visplay[judge]'") from error
    return openai


def status_failure(status: int, headers: Mapping[str, str], code: str | None = None) -> Failure:
    """What a status that is no success means, and the code that the server may give with it.

    Example:
        >>> status_failure(429, {"retry-after": "7"})
        Failure(kind='rate_limited', retry=True, fatal=False, retry_after_seconds=7.0)
        >>> status_failure(401, {})
        Failure(kind='rejected', retry=False, fatal=True, retry_after_seconds=0.0)
    """
    if code == "insufficient_quota":  # OpenAI's code for no credit, under status 429
        return Failure("rejected", retry=False, fatal=True)
    if status in (408, 409, 429) or status >= 500:
        kind = "rate_limited" if status == 429 else "server_error"
        return Failure(kind, retry_after_seconds=read_retry_after(headers.get("retry-after", "")))
    return Failure("rejected", retry=False, fatal=status in (401, 402, 404))  # key, credit or model


def read_retry_after(value: str) -> float:
    """Seconds from now, from a number of seconds or a date; 0 where it is neither.

    Example:
        >>> read_retry_after("1.5"), read_retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), read_retry_after("soon")
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
