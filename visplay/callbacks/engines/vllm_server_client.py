"""Requests to a vLLM server: bounded in time and number, with the token in no message."""

from __future__ import annotations

import ipaddress
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from visplay.callbacks.engines.engine import RolloutError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RequestLimits:
    """How long and how often a server is asked.

    Args:
        concurrent_requests: Most prompts that the server works on at a time.
        connect_seconds: Time limit of a connection.
        request_seconds: Time limit of one request: all completions of a prompt, or one step of a load.
        retries: How often at most a request that failed is made again, with the same seed.
        wait_seconds: Wait before the first retry; each further one waits twice as long.
    """

    concurrent_requests: int = 64
    connect_seconds: float = 10.0
    request_seconds: float = 600.0
    retries: int = 2
    wait_seconds: float = 1.0

    def __post_init__(self) -> None:
        """Reject limits that allow nothing."""
        for name, least in {"concurrent_requests": 1, "retries": 0, "wait_seconds": 0}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)} must be at least {least}")
        for name in ("connect_seconds", "request_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: {getattr(self, name)} must be above 0")


class ServerFault(Exception):
    """The server did not answer, or failed; another attempt may succeed."""


def check_url(url: str, token_variable: str | None) -> None:
    """See that a server's address can be used.

    Raises:
        ValueError: It is no http(s) address, carries credentials, or leaves this machine without a token.
    """
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise ValueError("url: it must not carry a user or password; name a token_variable")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"url: {url!r} must look like http://127.0.0.1:8000")
    if not is_loopback(url) and not token_variable:
        raise ValueError(
            f"token_variable: {url} is not on this machine, so it must name the environment variable with the token "
            "that the server was started with (VLLM_API_KEY there)"
        )


def is_loopback(url: str) -> bool:
    """Whether an address cannot leave this machine.

    Example:
        >>> is_loopback("http://127.0.0.1:8000"), is_loopback("http://10.0.0.7:8000")
        (True, False)
    """
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def read_token(variable: str | None) -> str | None:
    """The token in an environment variable.

    Raises:
        ValueError: It is not set.
    """
    if variable is None:
        return None
    token = os.environ.get(variable)
    if not token:
        raise ValueError(f"token_variable: the environment variable {variable!r} must hold the server's token")
    return token


class Server:
    """One vLLM server.

    Args:
        url: Its address.
        token_variable: Environment variable that holds its token.
        limits: How long and how often it is asked.

    Raises:
        ImportError: httpx is missing.
        ValueError: The token is not in the environment.
    """

    def __init__(self, url: str, token_variable: str | None, limits: RequestLimits) -> None:
        try:
            import httpx
        except ImportError as error:
            raise ImportError("VLLMServerRollout needs httpx: install visplay[vllm]") from error
        self.url = url.rstrip("/")
        self.limits = limits
        self._transport_error, self._timeout = httpx.TransportError, httpx.TimeoutException
        token = read_token(token_variable)
        self._client = httpx.Client(
            base_url=self.url,
            headers={} if token is None else {"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(limits.request_seconds, connect=limits.connect_seconds),
            limits=httpx.Limits(max_connections=limits.concurrent_requests + 1),
            trust_env=not is_loopback(url),  # a proxy has no business with this machine's own addresses
        )

    def get(self, path: str) -> Any:
        """Read, with retries."""
        return self._insist(lambda: self._request("GET", path, None), path)

    def ask(self, path: str, body: dict[str, Any], check: Callable[[Any], None]) -> Any:
        """Request what may be requested again, with retries; ``check`` raises ``ServerFault`` at an unusable answer."""

        def attempt() -> Any:
            answer = self._request("POST", path, body)
            check(answer)
            return answer

        return self._insist(attempt, path)

    def tell(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Change the server's state, once."""
        try:
            return self._request("POST", path, body)
        except ServerFault as fault:
            raise RolloutError(f"{self._place(path)} failed: {fault}") from fault

    def call_workers(self, method: str, *arguments: Any) -> list[Any]:
        """What each worker returns from one of its methods, see ``visplay.callbacks.engines.vllm_server_worker``."""
        return self.tell("/collective_rpc", {"method": method, "args": arguments})["results"]

    def is_open(self, path: str) -> bool:
        """Whether a path answers without the token."""
        request = self._client.build_request("GET", path)
        request.headers.pop("Authorization", None)
        try:
            return self._client.send(request).is_success
        except self._transport_error as error:
            raise RolloutError(f"{self._place(path)} gave no answer ({type(error).__name__})") from error

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _insist(self, act: Callable[[], Any], path: str) -> Any:
        for attempt in range(self.limits.retries):
            try:
                return act()
            except ServerFault as fault:
                logger.warning("%s failed and is asked again: %s", self._place(path), fault)
            time.sleep(self.limits.wait_seconds * 2**attempt)
        try:
            return act()
        except ServerFault as fault:
            raise RolloutError(f"{self._place(path)} failed {self.limits.retries + 1} times: {fault}") from fault

    def _request(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        try:
            response = self._client.request(method, path, json=body)
        except self._timeout as error:
            limit = f"request_seconds={self.limits.request_seconds:g}, connect_seconds={self.limits.connect_seconds:g}"
            raise ServerFault(f"no answer in time ({type(error).__name__}; {limit})") from error
        except self._transport_error as error:
            raise ServerFault(f"no answer ({type(error).__name__}: {error})") from error
        if response.status_code >= 500:
            raise ServerFault(f"status {response.status_code}: {response.text[:500]}")
        if response.is_success:
            return self._decode(response, path)
        raise RolloutError(f"{self._place(path)} rejected: {response.status_code}, {_reason(response)}")

    def _decode(self, response: Any, path: str) -> Any:
        try:
            return response.json() if response.content else None
        except ValueError as error:
            raise RolloutError(f"{self._place(path)} answered no JSON: is it a vLLM server?") from error

    def _place(self, path: str) -> str:
        return f"url: the vLLM server at {self.url}, {path.partition('?')[0]},"


def _reason(response: Any) -> str:
    advice = {
        401: "it wants a token (token_variable)",
        404: "start it with VLLM_SERVER_DEV_MODE=1 in its environment and with --enable-scale-out",
    }
    return advice.get(response.status_code, response.text[:500])
