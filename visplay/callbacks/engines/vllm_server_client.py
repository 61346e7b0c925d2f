"""The trainer's side of a vLLM server: requests, bounded in time and number. The token is in no message."""

from __future__ import annotations

import ipaddress
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from visplay.callbacks.engines.engine import RolloutError

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class RequestLimits:
    """How long and how often a server is asked.

    Args:
        concurrent_requests: Most prompts that a server works on at a time for each rank.
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
    hostname = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(hostname).is_loopback
    except ValueError:  # a name
        return hostname == "localhost"


class RequestFailure(Exception):
    """The server did not answer, or failed; another attempt may succeed."""


class Server:
    """One vLLM server.

    Args:
        url: Its address.
        token_variable: Environment variable that has its token.
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
        token = os.environ.get(token_variable) if token_variable else None
        if token_variable and not token:
            raise ValueError(
                f"token_variable: the environment variable {token_variable!r} must hold the server's token"
            )
        self.url = url.rstrip("/")
        self.limits = limits
        self._httpx = httpx
        self._client = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(limits.request_seconds, connect=limits.connect_seconds),
            limits=httpx.Limits(max_connections=limits.concurrent_requests + 1),
            trust_env=not is_loopback(url),  # a proxy has no business with this machine's own addresses
        )

    def request(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        retries: int = 0,
        check: Callable[[Any], None] = lambda answer: None,
    ) -> Any:
        """Make a request, and make one that failed again ``retries`` times.

        httpx repeats connections only; what fails here is mostly the server behind them.

        Args:
            method: GET or POST.
            path: What is asked.
            body: JSON.
            retries: 0 where a request changes the server's state.
            check: Raises ``RequestFailure`` if the answer cannot be used.

        Returns:
            The answer's JSON; None if it is empty.

        Raises:
            RolloutError: It failed every time, or was rejected.
        """
        failure: RequestFailure | None = None
        for attempt in range(retries + 1):
            if failure is not None:
                logger.warning("%s failed and is asked again: %s", self._at(path), failure)
                time.sleep(self.limits.wait_seconds * 2 ** (attempt - 1))
            try:
                answer = self._attempt(method, path, body)
                check(answer)
                return answer
            except RequestFailure as error:
                failure = error
        times = f" {retries + 1} times" if retries else ""
        raise RolloutError(f"{self._at(path)} failed{times}: {failure}") from failure

    def _attempt(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        try:
            response = self._client.request(method, path, json=body)
        except self._httpx.TimeoutException as error:
            limit = f"request_seconds={self.limits.request_seconds:g}, connect_seconds={self.limits.connect_seconds:g}"
            raise RequestFailure(f"no answer in time ({type(error).__name__}; {limit})") from error
        except self._httpx.TransportError as error:
            raise RequestFailure(f"no answer ({type(error).__name__}: {error})") from error
        if response.status_code >= 500:
            raise RequestFailure(f"status {response.status_code}: {response.text[:500]}")
        if not response.is_success:
            advice = {
                401: "it wants a token (token_variable)",
                404: "start it with VLLM_SERVER_DEV_MODE=1 in its environment and with --enable-scale-out",
            }.get(response.status_code, response.text[:500])
            raise RolloutError(f"{self._at(path)} rejected: {response.status_code}, {advice}")
        try:
            return response.json() if response.content else None
        except ValueError as error:
            raise RolloutError(f"{self._at(path)} answered no JSON: is it a vLLM server?") from error

    def _at(self, path: str) -> str:
        return f"url: the vLLM server at {self.url}, {path.partition('?')[0]},"

    def get(self, path: str) -> Any:
        """Read, with retries."""
        return self.request("GET", path, retries=self.limits.retries)

    def tell(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Change the server's state, once."""
        return self.request("POST", path, body)

    def call_workers(self, method: str, *arguments: Any) -> list[Any]:
        """What each worker returns from one of its methods, see ``visplay.callbacks.engines.vllm_server_worker``."""
        return self.tell("/collective_rpc", {"method": method, "args": arguments})["results"]

    def is_open(self, path: str) -> bool:
        """Whether a path answers without the token."""
        request = self._client.build_request("GET", path)
        request.headers.pop("Authorization", None)
        try:
            return self._client.send(request).is_success
        except self._httpx.TransportError as error:
            raise RolloutError(f"{self._at(path)} gave no answer ({type(error).__name__})") from error

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def at_all(servers: Sequence[Server], act: Callable[[Server], T]) -> list[T]:
    """Do something at several servers at once; what it gives, in their order."""
    with ThreadPoolExecutor(len(servers)) as pool:
        return list(pool.map(act, servers))
