"""What runs inside ``vllm serve``: weights taken from files, checksums of what is loaded, a token for every path.

vLLM loads these by their import paths (``--worker-extension-cls``, ``--middleware``); see ``docs/external_engine.md``.
"""

from __future__ import annotations

import hmac
import os
import stat
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from visplay.callbacks.engines.vllm_engine import report_before_truncation
from visplay.callbacks.engines.vllm_weights import loaded_weights, repack

TOKEN_VARIABLE = "VLLM_API_KEY"


def weights_directory() -> Path:
    """Where files of weights are exchanged: ``VISPLAY_WEIGHTS_DIR``, or a directory in memory of this user's own."""
    return Path(os.environ.get("VISPLAY_WEIGHTS_DIR") or f"/dev/shm/visplay-{os.getuid()}").absolute()


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


class ServerWorker:
    """What vLLM adds to its worker (``--worker-extension-cls``); a client calls it over the collective RPC.

    Weights come in files of the directory that trainer and server share: ``visplay_start_load``, ``visplay_load_file``
    for each, ``visplay_finish_load``; or by vLLM's own transfer from GPU to GPU.
    """

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

    def visplay_start_load(self) -> None:
        """Make the layers ready to take weights of a checkpoint again."""
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        with set_current_vllm_config(self.vllm_config):
            initialize_layerwise_reload(self.model_runner.get_model())

    def visplay_load_file(self, name: str) -> None:
        """Take the weights of one file.

        Raises:
            ValueError: It is no file of the directory.
        """
        from vllm.config import set_current_vllm_config

        weights = load_file(open_weights(weights_directory(), name))
        with set_current_vllm_config(self.vllm_config):
            self.model_runner.get_model().load_weights(weights.items())

    def visplay_finish_load(self) -> None:
        """Put the layers in order, and renew the copies that vLLM keeps of some weights on a CPU."""
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        model = self.model_runner.get_model()
        with set_current_vllm_config(self.vllm_config):
            finalize_layerwise_reload(model, self.vllm_config.model_config)
            repack(model)
        self.model_runner.reset_lora_state()

    @torch.no_grad()
    def visplay_loaded_weights(self, names: Sequence[str]) -> dict[str, Any]:
        """What this worker computes with, see ``visplay.callbacks.engines.vllm_weights.loaded_weights``."""
        return loaded_weights(self.model_runner.get_model(), names)._asdict()


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
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        """Pass the request on, or answer 401."""
        given = dict(scope.get("headers", ())).get(b"authorization", b"")
        is_open = scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] == "/health")
        if is_open or hmac.compare_digest(given, self._expected):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await send({"type": "http.response.start", "status": 401, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"Unauthorized"})
