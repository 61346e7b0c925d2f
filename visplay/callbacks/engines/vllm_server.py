"""Rollouts from a vLLM server of one's own, on other GPUs than the trainer's; see ``docs/external_engine.md``."""

from __future__ import annotations

import base64
import io
import json
import logging
import shlex
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import torch
from PIL.Image import Image
from torch import Tensor

from visplay.callbacks.engines.engine import RolloutEngine, RolloutError, WrongWeightsError
from visplay.callbacks.engines.vllm_engine import FINISHED, check_length, sampling_parameters
from visplay.callbacks.engines.vllm_server_client import (
    FileSender,
    NCCLSender,
    RequestFailure,
    RequestLimits,
    Server,
    TransferSettings,
    check_url,
    is_loopback,
)
from visplay.callbacks.engines.vllm_weights import LoadedWeights, verify
from visplay.modules.policy.vlm import VLM
from visplay.types import Completion, Prompt, Sampling

logger = logging.getLogger(__name__)

_GENERATE = "/inference/v1/generate"
_WORKER = "visplay.callbacks.engines.vllm_server_worker"


class VLLMServerRollout(RolloutEngine):
    """A vLLM server serves every policy; it is sent the weights of whichever is asked.

    The server belongs to one run: a load ends what others have it do. Each rank of the trainer has its own.

    Args:
        url: The server's address, or one for each rank of the trainer.
        token_variable: Name of the environment variable with the server's token; null for a server on this machine.
        model: Name that the server gives its model; null expects the last part of the policy's path.
        transfer: How weights travel.
        limits: How long and how often the server is asked.
        verify: Whether, after every load, a checksum of each loaded tensor is compared with the policy's.
    """

    def __init__(
        self,
        url: str | list[str] = "http://127.0.0.1:8000",
        token_variable: str | None = None,
        model: str | None = None,
        transfer: TransferSettings = TransferSettings(),  # noqa: B008 (frozen)
        limits: RequestLimits = RequestLimits(),  # noqa: B008 (frozen)
        verify: bool = True,
    ) -> None:
        super().__init__()
        self.urls = [url] if isinstance(url, str) else list(url)
        for each in self.urls:
            check_url(each, token_variable)
        self.token_variable = token_variable
        self.model = model
        self.transfer = transfer
        self.limits = limits
        self.verify = verify
        self._server: Server | None = None
        self._sender: FileSender | NCCLSender | None = None
        self._label = ""

    def sample(self, policy: VLM, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Ask for every prompt's completions, ``limits.concurrent_requests`` prompts at a time.

        Raises:
            RolloutError: A request failed as often as ``limits`` allows.
            WrongWeightsError: The server answers with other weights than it was sent.
        """
        answers: dict[int, Any] = {}
        missing = list(range(len(prompts)))
        for _ in range(self.limits.retries + 1):
            asked = self._ask_all(policy, [prompts[index] for index in missing], sampling)
            answers |= zip(missing, asked, strict=True)
            missing = [index for index in missing if _versions(answers[index]) != {self._label}]
            if not missing:
                return [_group(policy, prompt, answers[i], sampling) for i, prompt in enumerate(prompts)]
            logger.warning("the vLLM server lost the weights it was sent; they are sent again")
            self._drop_sender()
            self.loaded = None
            self.load(policy)
        raise WrongWeightsError(
            f"url: the vLLM server at {self._connected.url} answers with weights "
            f"{sorted(_versions(answers[missing[0]]))} where it was sent {self._label!r}; nothing else may load "
            "weights into it"
        )

    def load_weights(self, policy: VLM) -> None:
        """Send the policy's weights, compare what arrived, and forget what the server computed with others.

        Raises:
            RolloutError: The server cannot be reached, or does not fit the policy.
            WrongWeightsError: A tensor that it holds is not the policy's.
        """
        server, device = self._connected, self.device_for(policy)
        dtype, directory = self._inspect(policy, server)
        server.tell("/pause?mode=abort&clear_cache=true")  # prefix and encoder caches too
        if self._sender is None:
            self._sender = self._make_sender(server, directory)
        self._sender.send(lambda: _typed(policy, dtype, device))
        if self.verify:

            def ask_workers(names: list[str]) -> list[LoadedWeights]:
                return [LoadedWeights(**each) for each in server.call_workers("visplay_loaded_weights", names)]

            verify(policy, policy.weights(device), dtype, ask_workers, f"the vLLM server at {server.url}")
        self._label = f"{policy.name}/{policy.version}/{uuid4().hex}"
        server.tell("/update_weight_version", {"new_version": self._label})
        server.tell("/resume")

    def close(self) -> None:
        """Leave the server as it is; the next policy is loaded afresh."""
        super().close()
        self._drop_sender()
        server, self._server = self._server, None
        if server is not None:
            server.close()

    @property
    def _connected(self) -> Server:
        """This rank's server.

        Raises:
            ValueError: There are not as many addresses as ranks, or the token is not in the environment.
        """
        if self._server is None:
            rank, ranks = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
            if len(self.urls) != ranks:
                raise ValueError(f"url: the trainer has {ranks} ranks and needs a server for each, got {self.urls}")
            self._server = Server(self.urls[rank], self.token_variable, self.limits)
        return self._server

    def _inspect(self, policy: VLM, server: Server) -> tuple[torch.dtype, Path]:
        """See that the server fits the policy; returns the type of its weights and its directory of files."""
        start = f"Start it with: {self.start_command(policy)}"
        try:
            self._check_model(policy, server)
            if not is_loopback(server.url) and server.is_open("/weight_info"):
                raise RolloutError(
                    f"url: the vLLM server at {server.url} lets anybody change its weights: VLLM_API_KEY alone does "
                    f"not guard those paths, --middleware {_WORKER}.RequireToken does"
                )
            described = server.call_workers("visplay_describe")[0]
        except RolloutError as error:
            raise RolloutError(f"{error}\n{start}") from error
        wanted = {"logprobs_mode": "processed_logprobs", "can_report": True}
        wanted |= {"backend": "nccl"} if self.transfer.backend == "nccl" else {}
        wrong = {name: described[name] for name, value in wanted.items() if described[name] != value}
        if wrong:
            raise RolloutError(f"url: the vLLM server at {server.url} has {wrong} in place of {wanted}. {start}")
        directory, chosen = Path(described["directory"]), self.transfer.directory
        if self.transfer.backend == "file" and chosen is not None and Path(chosen).absolute() != directory:
            raise RolloutError(
                f"directory: {chosen!r} is not the server's '{directory}'; start it with VISPLAY_WEIGHTS_DIR={chosen}"
            )
        return getattr(torch, described["dtype"]), directory

    def _check_model(self, policy: VLM, server: Server) -> None:
        served = server.get("/v1/models")["data"][0]
        names = {served["id"], served.get("root") or served["id"]}
        wanted = self.model or Path(policy.path).name
        if wanted not in (names if self.model else {Path(name).name for name in names}):
            raise RolloutError(f"model: the vLLM server at {server.url} serves {served['id']!r} and not {wanted!r}")
        if served["max_model_len"] < policy.context_tokens:
            raise RolloutError(
                f"url: the vLLM server at {server.url} has a context of {served['max_model_len']} tokens and "
                f"{policy.name!r} one of {policy.context_tokens}; start it with --max-model-len "
                f"{policy.context_tokens}, or lower the policy's max_context_tokens"
            )

    def _make_sender(self, server: Server, directory: Path) -> FileSender | NCCLSender:
        if self.transfer.backend == "nccl":
            return NCCLSender(server, self.transfer)
        return FileSender(server, directory, self.transfer.part_mib << 20)

    def _drop_sender(self) -> None:
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.close()

    def _ask_all(self, policy: VLM, prompts: Sequence[Prompt], sampling: Sampling) -> list[Any]:
        server = self._connected

        def ask(prompt: Prompt, parameters: dict[str, Any]) -> Any:
            body = {
                "token_ids": list(prompt.token_ids),  # one placeholder per image
                "content_parts": [{"type": "image_url", "url": _as_png(image)} for image in prompt.images] or None,
                "sampling_params": parameters,
            }
            return server.request("POST", _GENERATE, body, retries=self.limits.retries, check=_check_whole)

        with ThreadPoolExecutor(self.limits.concurrent_requests) as pool:
            return list(pool.map(ask, prompts, sampling_parameters(policy, prompts, sampling)))

    def start_command(self, policy: VLM) -> str:
        """The command that starts a server that fits a policy, for a POSIX shell."""
        parts = urlsplit(self.urls[0])
        command = [
            *("vllm", "serve", policy.path),
            *("--host", parts.hostname or "" if is_loopback(self.urls[0]) else "0.0.0.0"),
            *("--port", str(parts.port or 8000), "--enable-scale-out", "--logprobs-mode", "processed_logprobs"),
            *("--max-model-len", str(policy.context_tokens), "--generation-config", "vllm"),
            *("--limit-mm-per-prompt", json.dumps({"image": 1, "video": 0})),
            *("--mm-processor-kwargs", json.dumps(policy.processor_settings)),
            *("--worker-extension-cls", f"{_WORKER}.ServerWorker"),
            *(("--weight-transfer-config", '{"backend": "nccl"}') if self.transfer.backend == "nccl" else ()),
            *(("--middleware", f"{_WORKER}.RequireToken") if self.token_variable else ()),
        ]
        return f"VLLM_SERVER_DEV_MODE=1 VLLM_USE_V2_MODEL_RUNNER=0 {shlex.join(command)}"


def _typed(policy: VLM, dtype: torch.dtype, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    return ((name, weight.to(dtype)) for name, weight in policy.weights(device))


def _as_png(image: Image) -> str:
    """The image without loss, as a data URL."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _check_whole(answer: dict[str, Any]) -> None:
    reasons = {choice["finish_reason"] for choice in answer["choices"]}
    if not answer["choices"] or reasons - set(FINISHED):
        raise RequestFailure(f"it ended a request early ({', '.join(map(str, reasons)) or 'no completions'})")


def _versions(answer: dict[str, Any]) -> set[str]:
    """Labels of the weights that the answer was sampled from."""
    return {span["version"] for choice in answer["choices"] for span in choice["weight_versions"] or ()}


def _group(policy: VLM, prompt: Prompt, answer: dict[str, Any], sampling: Sampling) -> list[Completion]:
    advice = f"start the server with --mm-processor-kwargs '{json.dumps(policy.processor_settings)}'"
    check_length(policy, prompt, answer["usage"]["prompt_tokens"], advice)
    choices = sorted(answer["choices"], key=lambda choice: choice["index"])
    repeats = 1 if sampling.temperature else sampling.n  # greedy: one stands for all
    if [choice["index"] for choice in choices] != list(range(sampling.n // repeats)):
        raise RolloutError(f"prompt {prompt.key!r}: {len(choices)} of {sampling.n} completions came back")
    completions = []
    for choice in choices:
        ids, reported = choice["token_ids"], choice["logprobs"]["content"]
        if [each["token_id"] for each in reported] != ids:
            raise RolloutError(f"the server reports log-probabilities of other tokens than the {len(ids)} it sampled")
        logps = tuple(each["logprob"] for each in reported)
        completions.append(Completion(tuple(ids), logps, policy.decode(ids), FINISHED[choice["finish_reason"]]))
    return completions * repeats
