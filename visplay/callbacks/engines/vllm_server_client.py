"""The trainer's side of a vLLM server: requests, bounded in time and number, and weights sent.

The token is in no message. Weights go in files to ``vllm_server_worker.ServerWorker``, or with vLLM's own sender.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from uuid import uuid4

from safetensors.torch import save_file
from torch import Tensor

from visplay.callbacks.engines.engine import RolloutError

logger = logging.getLogger(__name__)

Weights = Callable[[], Iterable[tuple[str, Tensor]]]


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


@dataclass(frozen=True)
class TransferSettings:
    """How weights travel.

    Args:
        backend: "file": safetensors in a directory that trainer and server share, which must be on one machine; "nccl":
            from GPU to GPU.
        directory: Of "file"; null takes what the server names.
        part_mib: Of "file": most mebibytes of one file; a larger tensor has a file of its own.
        address: Of "nccl": address of the trainer's machine as the server sees it.
        port: Of "nccl": port that the trainer opens there; null takes a free one.
    """

    backend: Literal["file", "nccl"] = "file"
    directory: str | None = None
    part_mib: int = 1024
    address: str = "127.0.0.1"
    port: int | None = None

    def __post_init__(self) -> None:
        """Reject what cannot be sent with."""
        if self.part_mib < 1:
            raise ValueError(f"part_mib: {self.part_mib} must be at least 1")


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


class FileSender:
    """Sends weights part by part, each in a file that is deleted once the server has read it.

    Args:
        server: Where to.
        directory: The directory that the server reads.
        part_bytes: Most bytes of one file.

    Raises:
        ValueError: The directory is not this user's own.
    """

    def __init__(self, server: Server, directory: Path, part_bytes: int) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise ValueError(f"directory: {directory} must belong to this user, and nobody else may write to it")
        self._server = server
        self._path = directory / f"{uuid4().hex}.safetensors"
        self._part_bytes = part_bytes

    def send(self, weights: Weights) -> None:
        """Send all of them."""
        self._server.call_workers("visplay_start_load")
        for part in in_parts(weights(), self._part_bytes):
            try:
                save_file(part, self._path)
                self._server.call_workers("visplay_load_file", self._path.name)
            finally:
                self._path.unlink(missing_ok=True)  # what the server has mapped of it stays
        self._server.call_workers("visplay_finish_load")

    def close(self) -> None:
        """Nothing to end."""


def in_parts(weights: Iterable[tuple[str, Tensor]], part_bytes: int) -> Iterator[dict[str, Tensor]]:
    """Weights on the CPU, in order, as many at a time as fit.

    Example:
        >>> import torch
        >>> tensors = [(name, torch.zeros(2)) for name in "abc"]
        >>> [list(part) for part in in_parts(tensors, part_bytes=16)]
        [['a', 'b'], ['c']]
    """
    part: dict[str, Tensor] = {}
    size = 0
    for name, weight in weights:
        size += weight.nbytes
        if part and size > part_bytes:
            yield part
            part, size = {}, weight.nbytes
        part[name] = weight.cpu().contiguous()
    if part:
        yield part


class _WeightRequests:
    """The requests of a server that vLLM's own sender makes."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._server.tell("/init_weight_transfer_engine", {"init_info": init_info})

    def start_weight_update(self) -> None:
        self._server.tell("/start_weight_update")

    def update_weights(self, update_info: Any) -> None:
        self._server.tell("/update_weights", {"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._server.tell("/finish_weight_update")


class NCCLSender(_WeightRequests):
    """Sends weights from GPU to GPU with vLLM's own sender; trainer and server must not share a GPU.

    vLLM's sender makes its requests of this object, and reads from it what will come, and then the tensors.

    Args:
        server: Where to.
        settings: Address and port of the trainer.
    """

    def __init__(self, server: Server, settings: TransferSettings) -> None:
        from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        super().__init__(server)
        self._weights: Weights = tuple
        port = settings.port
        if port is None:
            with socket.socket() as probe:
                probe.bind(("", 0))
                port = probe.getsockname()[1]
        workers = server.get("/get_world_size")["world_size"]
        init = NCCLTrainerInitInfo(settings.address, port, 1 + workers, rank=0)
        this: Any = self
        self._sender = WeightTransferTrainerFactory.trainer_init(init, client=this, source=this)

    def metadata(self) -> list[Any]:
        """What will come, as vLLM's ``ParamMeta``."""
        from vllm.distributed.weight_transfer.base import ParamMeta

        return [ParamMeta(name, weight.dtype, tuple(weight.shape)) for name, weight in self._weights()]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self._weights())

    def send(self, weights: Weights) -> None:
        """Send all of them."""
        self._weights = weights
        self._sender.send_weights()

    def close(self) -> None:
        """Leave the group."""
        self._sender.shutdown()
