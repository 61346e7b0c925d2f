"""Weights from the trainer to a vLLM server, over vLLM's own weight-transfer requests."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import uuid4

import torch
from safetensors.torch import save_file
from torch import Tensor

from visplay.callbacks.engines.engine import RolloutError
from visplay.callbacks.engines.vllm_server_client import Server
from visplay.callbacks.engines.vllm_server_worker import FILE_BACKEND

Weights = Callable[[], Iterable[tuple[str, Tensor]]]


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

    @property
    def name(self) -> str:
        """What vLLM calls the backend."""
        return FILE_BACKEND if self.backend == "file" else self.backend


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
        self._server.tell("/start_weight_update")
        try:
            for part in in_parts(weights(), self._part_bytes):
                self._send_part(part)
        except RolloutError:
            with suppress(RolloutError):  # it may have ended the update by itself
                self._server.tell("/finish_weight_update")
            raise
        self._server.tell("/finish_weight_update")

    def _send_part(self, part: dict[str, Tensor]) -> None:
        try:
            save_file(part, self._path)
            self._server.tell("/update_weights", {"update_info": {"file": self._path.name}})
        finally:
            self._path.unlink(missing_ok=True)  # what the server has mapped of it stays

    def close(self) -> None:
        """Nothing is held."""


def in_parts(weights: Iterable[tuple[str, Tensor]], part_bytes: int) -> Iterator[dict[str, Tensor]]:
    """Weights on the host, in order, as many at a time as fit.

    Example:
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


class _Description(NamedTuple):
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class _Source:
    """Weights as vLLM's sender reads them: first what will come, then the tensors."""

    def __init__(self) -> None:
        self.weights: Weights = tuple

    def metadata(self) -> list[_Description]:
        return [_Description(name, weight.dtype, tuple(weight.shape)) for name, weight in self.weights()]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self.weights())


class _SyncRequests:
    """The requests that vLLM's sender makes of a server."""

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


class NCCLSender:
    """Sends weights from GPU to GPU with vLLM's own sender; trainer and server must not share a GPU.

    Args:
        server: Where to.
        settings: Address and port of the trainer.
    """

    def __init__(self, server: Server, settings: TransferSettings) -> None:
        from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        workers = server.get("/get_world_size")["world_size"]
        place = NCCLTrainerInitInfo(settings.address, settings.port or _free_port(), 1 + workers, rank=0)
        self._source = _Source()
        requests: Any = _SyncRequests(server)
        source: Any = self._source
        self._sender = WeightTransferTrainerFactory.trainer_init(place, client=requests, source=source)

    def send(self, weights: Weights) -> None:
        """Send all of them."""
        self._source.weights = weights
        self._sender.send_weights()

    def close(self) -> None:
        """Leave the group."""
        self._sender.shutdown()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
