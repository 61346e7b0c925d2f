"""How weights travel from the trainer to its vLLM servers, one copy for all of them.

They go in files to ``vllm_server_worker.ServerWorker``, or from GPU to GPU with vLLM's own sender.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import torch
from safetensors.torch import save_file
from torch import Tensor

from visplay.callbacks.engines.vllm_server_client import Server, at_all

Weights = Iterable[tuple[str, Tensor]]


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


class FileSender:
    """Sends weights part by part, each in a file that is deleted once the servers have read it.

    Args:
        servers: Where to.
        directories: The directory that each of them reads.
        part_bytes: Most bytes of one file.

    Raises:
        ValueError: A directory is not this user's own.
    """

    def __init__(self, servers: Sequence[Server], directories: Sequence[Path], part_bytes: int) -> None:
        for directory in directories:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = directory.stat()
            if status.st_uid != os.getuid() or status.st_mode & 0o022:
                raise ValueError(f"directory: {directory} must belong to this user, and nobody else may write to it")
        self._servers = servers
        self._name = f"{uuid4().hex}.safetensors"
        self._paths = {directory / self._name for directory in directories}
        self._part_bytes = part_bytes

    def send(self, weights: Weights) -> None:
        """Send all of them."""
        at_all(self._servers, lambda server: server.call_workers("visplay_start_load"))
        for part in in_parts(weights, self._part_bytes):
            try:
                for path in self._paths:
                    save_file(part, path)
                at_all(self._servers, lambda server: server.call_workers("visplay_load_file", self._name))
            finally:
                for path in self._paths:
                    path.unlink(missing_ok=True)  # what a server has mapped of it stays
        at_all(self._servers, lambda server: server.call_workers("visplay_finish_load"))

    def close(self) -> None:
        """Nothing to end."""


def in_parts(weights: Weights, part_bytes: int) -> Iterator[dict[str, Tensor]]:
    """Weights on the CPU, in order, as many at a time as fit; a part is empty once the next one is asked for.

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
            part.clear()  # whoever has taken it still names it
            size = weight.nbytes
        part[name] = weight.cpu().contiguous()
    if part:
        yield part


class _WeightRequests:
    """The requests that vLLM's own sender makes, of all servers at once: their workers are one group with the trainer.

    Args:
        servers: Whose workers follow one another in the group, after the trainer.
    """

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers = servers
        workers = [server.get("/get_world_size")["world_size"] for server in servers]
        *first_ranks, self.group_size = accumulate(workers, initial=1)
        self._first_rank = dict(zip(servers, first_ranks, strict=True))

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        def start(server: Server) -> None:
            info = init_info | {"rank_offset": self._first_rank[server]}
            server.tell("/init_weight_transfer_engine", {"init_info": info})

        at_all(self.servers, start)

    def start_weight_update(self) -> None:
        at_all(self.servers, lambda server: server.tell("/start_weight_update"))

    def update_weights(self, update_info: Any) -> None:
        at_all(self.servers, lambda server: server.tell("/update_weights", {"update_info": update_info}))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        at_all(self.servers, lambda server: server.tell("/finish_weight_update"))


class NCCLSender(_WeightRequests):
    """Sends weights from GPU to GPU with vLLM's own sender; trainer and servers must not share a GPU.

    vLLM's sender makes its requests of this object, and reads from it what will come, and then the tensors.

    Args:
        servers: Where to.
        settings: Address and port of the trainer.
        shapes: Of the weights, whole, in the order in which they are sent.
        dtype: Of all of them.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        settings: TransferSettings,
        shapes: Mapping[str, torch.Size],
        dtype: torch.dtype,
    ) -> None:
        from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        super().__init__(servers)
        self._weights: Weights = ()
        self._shapes = shapes
        self._dtype = dtype
        port = settings.port
        if port is None:
            with socket.socket() as probe:
                probe.bind(("", 0))
                port = probe.getsockname()[1]
        init = NCCLTrainerInitInfo(settings.address, port, self.group_size, rank=0)
        this: Any = self
        self._sender = WeightTransferTrainerFactory.trainer_init(init, client=this, source=this)

    def metadata(self) -> list[Any]:
        """What will come, as vLLM's ``ParamMeta``."""
        from vllm.distributed.weight_transfer.base import ParamMeta

        return [ParamMeta(name, self._dtype, tuple(shape)) for name, shape in self._shapes.items()]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self._weights)

    def send(self, weights: Weights) -> None:
        """Send all of them."""
        self._weights = weights
        self._sender.send_weights()

    def close(self) -> None:
        """Leave the group."""
        self._sender.shutdown()
