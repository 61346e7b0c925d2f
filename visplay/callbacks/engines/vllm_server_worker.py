"""What runs inside ``vllm serve``: weights taken from files, checksums of what is held, a token for every path.

vLLM loads these by their import paths (``--worker-extension-cls``, ``--middleware``); see ``docs/external_engine.md``.
"""

from __future__ import annotations

import hmac
import os
import stat
import sys
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from visplay.callbacks.engines.vllm_engine import report_before_truncation
from visplay.callbacks.engines.vllm_weights import held, repack

FILE_BACKEND = "visplay_file"
DIRECTORY_VARIABLE = "VISPLAY_WEIGHTS_DIR"
TOKEN_VARIABLE = "VLLM_API_KEY"


def weights_directory() -> Path:
    """Where files of weights are exchanged: ``VISPLAY_WEIGHTS_DIR``, or a directory in memory of this user's own."""
    return Path(os.environ.get(DIRECTORY_VARIABLE) or f"/dev/shm/visplay-{os.getuid()}").absolute()


def open_weights(directory: Path, name: str) -> Path:
    """Path of a file of weights, if it is one that this user put into the directory.

    Raises:
        ValueError: The name leads out of the directory, or to something else than a safetensors file of this user.
    """
    path = directory / name
    if Path(name).name != name or path.suffix != ".safetensors":
        raise ValueError(f"file: {name!r} must be the plain name of a .safetensors file in {directory}")
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
        raise ValueError(f"file: {name!r} in {directory} must be a regular file of the user that runs the server")
    return path


@dataclass
class FileInit:
    """Nothing has to be agreed on beforehand."""


@dataclass
class FileUpdate:
    """One part of the weights.

    Args:
        file: Name of a safetensors file in ``weights_directory()``.
    """

    file: str


class FileTransfer:
    """vLLM's weight transfer over files in a directory that trainer and server share.

    ``register`` joins it with vLLM's own base class, which parses the requests and calls these methods.
    """

    init_info_cls = FileInit
    update_info_cls = FileUpdate
    model: Any
    model_config: Any

    def init_transfer_engine(self, init_info: FileInit) -> None:
        """Nothing to connect."""

    def start_weight_update(self) -> None:
        """Make the layers ready to take weights of a checkpoint again."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: FileUpdate) -> None:
        """Take the weights of one file.

        Raises:
            ValueError: It is no file of the directory.
        """
        weights = load_file(open_weights(weights_directory(), update_info.file))
        self.model.load_weights(weights.items())

    def finish_weight_update(self) -> None:
        """Put the layers in order, and renew the copies that vLLM keeps of some weights on a CPU."""
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)
        repack(self.model)

    def shutdown(self) -> None:
        """Nothing to close."""


def register() -> None:
    """Make the file backend known to vLLM's own factory, once a process."""
    from vllm.distributed.weight_transfer import WeightTransferEngine, WeightTransferEngineFactory

    if FILE_BACKEND not in WeightTransferEngineFactory._registry:
        engine = type("FileWeightTransferEngine", (FileTransfer, WeightTransferEngine), {})
        WeightTransferEngineFactory.register_engine(FILE_BACKEND, engine)


class ServerWorker:
    """What vLLM adds to its worker (``--worker-extension-cls``); a client calls it over the collective RPC."""

    vllm_config: Any
    model_runner: Any

    def visplay_describe(self) -> dict[str, Any]:
        """What a trainer has to know; from here on log-probabilities are those before top-k and top-p cut."""
        model, transfer = self.vllm_config.model_config, self.vllm_config.weight_transfer_config
        truncation = getattr(self.model_runner.sampler, "topk_topp_sampler", None)
        if model.logprobs_mode == "processed_logprobs" and hasattr(truncation, "logprobs_mode"):
            report_before_truncation(self.model_runner)
        return {
            "can_report": truncation is not None,
            "dtype": str(model.dtype).removeprefix("torch."),
            "logprobs_mode": model.logprobs_mode,
            "backend": transfer and transfer.backend,
            "directory": str(weights_directory()),
        }

    @torch.no_grad()
    def visplay_held(self, names: Sequence[str]) -> dict[str, Any]:
        """Checksums of what this worker computes with, see ``visplay.callbacks.engines.vllm_weights.held``."""
        return held(self.model_runner.get_model(), names)._asdict()


Message = MutableMapping[str, Any]


class RequireToken:
    """Answers nothing but ``/health`` without the token in ``VLLM_API_KEY`` (``--middleware``).

    vLLM's own check leaves the paths outside ``/v1`` and ``/inference`` open, among them those that change weights.

    Args:
        app: What answers those that have it.

    Raises:
        ValueError: The server's environment has no token.
    """

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        token = os.environ.get(TOKEN_VARIABLE)
        if not token:
            raise ValueError(f"{TOKEN_VARIABLE}: the server's environment must hold a token")
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Pass the request on, or answer 401."""
        given = dict(scope.get("headers", ())).get(b"authorization", b"")
        is_open = scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] == "/health")
        if is_open or hmac.compare_digest(given, self._expected):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"Unauthorized"})


if "vllm" in sys.modules:  # vLLM imports this file before it makes its transfer engine; others need not import vLLM
    register()
