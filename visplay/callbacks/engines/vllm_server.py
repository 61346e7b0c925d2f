"""Rollouts from vLLM servers of one's own, on other GPUs than the trainer's; see ``docs/external_engine.md``."""

from __future__ import annotations

import base64
import io
import json
import logging
import shlex
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import torch
from lightning import LightningModule, Trainer
from PIL.Image import Image
from torch import Tensor

from visplay.callbacks.engines.engine import RolloutEngine, RolloutError, WrongWeightsError
from visplay.callbacks.engines.vllm_engine import FINISHED, check_length, sampling_parameters
from visplay.callbacks.engines.vllm_server_client import (
    RequestFailure,
    RequestLimits,
    Server,
    at_all,
    check_url,
    is_loopback,
)
from visplay.callbacks.engines.vllm_server_transfer import FileSender, NCCLSender, TransferSettings, Weights
from visplay.callbacks.engines.vllm_weights import LoadedWeights, checksums, verify
from visplay.modules.policy.prefill import group_by_images
from visplay.modules.policy.vlm import VLM
from visplay.ranks import deal, failing_together, from_first, gather, rank, world_size
from visplay.types import Completion, Prompt, Sampling

logger = logging.getLogger(__name__)

_GENERATE = "/inference/v1/generate"
_WORKER = "visplay.callbacks.engines.vllm_server_worker"


class VLLMServerRollout(RolloutEngine):
    """Servers of vLLM serve every policy; they are sent the weights of whichever is asked.

    All ranks of the trainer share all servers: rank 0 sends each the weights, and every rank spreads its prompts over
    them. The servers belong to one run: a load ends what others have them do.

    Args:
        url: Addresses of the servers, or the one of a single server, the same for every rank.
        token_variable: Name of the environment variable with the servers' token; null for servers on this machine.
        model: Name that a server gives its model; null expects the last part of the policy's path.
        transfer: How weights travel.
        limits: How long and how often a server is asked.
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
        if not self.urls or len(set(self.urls)) < len(self.urls):
            raise ValueError(f"url: {self.urls} must be the addresses of one or several servers, all different")
        for each in self.urls:
            check_url(each, token_variable)
        self.token_variable = token_variable
        self.model = model
        self.transfer = transfer
        self.limits = limits
        self.verify = verify
        self._servers: list[Server] = []
        self._sender: FileSender | NCCLSender | None = None
        self._label = ""
        self._ahead: dict[str, ThreadPoolExecutor] = {}

    def sample(self, policy: VLM, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Ask the servers for every prompt's completions.

        Raises:
            RolloutError: A request of this or another rank failed as often as ``limits`` allows.
            WrongWeightsError: A server answers with other weights than it was sent.
        """
        servers = self._deal(policy, prompts, sampling)
        groups: dict[int, list[Completion]] = {}
        for attempt in count():
            missing = [index for index in range(len(prompts)) if index not in groups]
            with failing_together():
                asked = [(servers[index], prompts[index]) for index in missing]
                for index, answer in zip(missing, self._ask_all(policy, asked, sampling), strict=True):
                    if _versions(answer) == {self._label}:
                        groups[index] = _group(policy, prompts[index], answer, sampling)
                    elif attempt == self.limits.retries:
                        raise self._wrong_weights(servers[index], answer)
            if all(gather(len(groups) == len(prompts))):
                break
            logger.warning("a vLLM server lost the weights it was sent; they are sent again")
            self._drop_sender()
            self.loaded = None
            self.load(policy)
        return [groups[index] for index in range(len(prompts))]

    def begin(self, policy: Any, prompts: Sequence[Prompt], sampling: Sampling) -> Callable[[], list[list[Completion]]]:
        """Load the policy as it is now and begin to ask, in threads that make requests and know nothing of the policy.

        Weights that a server loses meanwhile cannot be sent again, as the trainer has others by then: the function
        returned raises a ``WrongWeightsError``, and the run can go on from its last checkpoint.

        Raises:
            ValueError: As of ``generate``.
        """
        self._check(policy, prompts, sampling)
        self._let_go()
        if not prompts and world_size() == 1:
            return list
        self.load(policy)
        servers = self._deal(policy, prompts, sampling)
        self._ahead = {server.url: ThreadPoolExecutor(self.limits.concurrent_requests) for server in self._connected}
        parameters = sampling_parameters(policy, prompts, sampling)
        asked = [
            self._ahead[server.url].submit(self._ask, server, prompt, each)
            for server, prompt, each in zip(servers, prompts, parameters, strict=True)
        ]

        def finish() -> list[list[Completion]]:
            with failing_together():
                try:
                    answers = [each.result() for each in asked]
                finally:
                    self._let_go()
                for server, answer in zip(servers, answers, strict=True):
                    if _versions(answer) != {self._label}:
                        raise self._wrong_weights(server, answer)
            return [_group(policy, prompt, answer, sampling) for prompt, answer in zip(prompts, answers, strict=True)]

        return finish

    def load_weights(self, policy: VLM) -> None:
        """Have rank 0 send the policy's weights, compare what arrived, and forget what was computed with others.

        Every rank runs through all weights, as all of them gather those that are sharded.

        Raises:
            RolloutError: A server cannot be reached, from whichever rank, or does not fit the policy.
            WrongWeightsError: A tensor that one holds is not the policy's.
        """
        servers, device = self._connected, self.device_for(policy)
        with failing_together():
            found = at_all(servers, partial(self._inspect, policy))
            if len({dtype for dtype, _ in found}) > 1:
                dtypes = [str(dtype) for dtype, _ in found]
                raise RolloutError(f"url: the servers {self.urls} have weights of {dtypes}; give all one --dtype")
        dtype = found[0][0]
        with failing_together(), _to_the_end(policy.weights(device)) as weights:
            if rank() == 0:
                at_all(servers, lambda server: server.tell("/pause?mode=abort&clear_cache=true"))  # of the encoder too
                if self._sender is None:
                    self._sender = self._make_sender(policy, dtype, [directory for _, directory in found])
                self._sender.send(_typed(weights, dtype))
        if self.verify:
            with failing_together(), _to_the_end(policy.weights(device)) as weights:
                if rank() == 0:
                    self._verify(policy, checksums(weights, dtype))
        self._label = from_first(lambda: f"{policy.name}/{policy.version}/{uuid4().hex}")
        with failing_together():
            if rank() == 0:
                at_all(servers, self._resume)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Ask no further: the process would end only with the last request."""
        self._let_go()

    def close(self) -> None:
        """Leave the servers as they are; the next policy is loaded afresh."""
        super().close()
        self._let_go()
        self._drop_sender()
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()

    @property
    def _connected(self) -> list[Server]:
        """The servers.

        Raises:
            ValueError: The token is not in the environment.
        """
        if not self._servers:
            self._servers = [Server(url, self.token_variable, self.limits) for url in self.urls]
        return self._servers

    def _verify(self, policy: VLM, sent: dict[str, int]) -> None:
        names = list(sent)
        loaded = at_all(self._connected, lambda server: server.call_workers("visplay_loaded_weights", names))
        for server, workers in zip(self._connected, loaded, strict=True):
            verify(policy, sent, [LoadedWeights(**each) for each in workers], f"the vLLM server at {server.url}")

    def _resume(self, server: Server) -> None:
        server.tell("/update_weight_version", {"new_version": self._label})
        server.tell("/resume")

    def _inspect(self, policy: VLM, server: Server) -> tuple[torch.dtype, Path]:
        """See that the server fits the policy; returns the type of its weights and its directory of files."""
        start = f"Start it with: {self.start_command(policy, server.url)}"
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

    def _wrong_weights(self, server: Server, answer: dict[str, Any]) -> WrongWeightsError:
        return WrongWeightsError(
            f"url: the vLLM server at {server.url} answers with weights {sorted(_versions(answer))} where it was sent "
            f"{self._label!r}; nothing else may load weights into it"
        )

    def _let_go(self) -> None:
        """Make none of the requests that ``begin`` has not made yet."""
        pools, self._ahead = self._ahead, {}
        for pool in pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    def _make_sender(self, policy: VLM, dtype: torch.dtype, directories: Sequence[Path]) -> FileSender | NCCLSender:
        if self.transfer.backend == "nccl":
            return NCCLSender(self._connected, self.transfer, policy.weight_shapes(), dtype)
        return FileSender(self._connected, directories, self.transfer.part_mib << 20)

    def _drop_sender(self) -> None:
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.close()

    def _deal(self, policy: VLM, prompts: Sequence[Prompt], sampling: Sampling) -> list[Server]:
        """The server of each prompt, by the tokens to expect; prompts about one image have one, which reads it once."""
        groups, servers = group_by_images(policy, prompts), self._connected
        longest = sampling.n * sampling.max_new_tokens
        costs = [sum(policy.prompt_tokens(prompts[i]) + longest for i in group) for group in groups]
        chosen: dict[int, Server] = {}
        for number, dealt in enumerate(deal(costs, len(servers)), start=rank()):  # ranks do not all begin with one
            chosen |= {i: servers[number % len(servers)] for group in dealt for i in groups[group]}
        return [chosen[i] for i in range(len(prompts))]

    def _ask_all(self, policy: VLM, asked: Sequence[tuple[Server, Prompt]], sampling: Sampling) -> list[Any]:
        """What servers answer to prompts, of which each works on ``limits.concurrent_requests`` at a time."""
        parameters = sampling_parameters(policy, [prompt for _, prompt in asked], sampling)

        def ask_its_own(server: Server) -> dict[int, Any]:
            own = [index for index, (its, _) in enumerate(asked) if its is server]
            with ThreadPoolExecutor(self.limits.concurrent_requests) as pool:
                answers = pool.map(lambda index: self._ask(*asked[index], parameters[index]), own)
                return dict(zip(own, answers, strict=True))

        answers = {i: each for of_one in at_all(self._connected, ask_its_own) for i, each in of_one.items()}
        return [answers[index] for index in range(len(asked))]

    def _ask(self, server: Server, prompt: Prompt, parameters: dict[str, Any]) -> Any:
        body = {
            "token_ids": list(prompt.token_ids),  # one placeholder per image
            "content_parts": [{"type": "image_url", "url": _as_png(image)} for image in prompt.images] or None,
            "sampling_params": parameters,
        }
        return server.request("POST", _GENERATE, body, retries=self.limits.retries, check=_check_whole)

    def start_command(self, policy: VLM, url: str) -> str:
        """The command that starts a server with this address that fits a policy, for a POSIX shell."""
        parts = urlsplit(url)
        command = [
            *("vllm", "serve", policy.path),
            *("--host", parts.hostname or "" if is_loopback(url) else "0.0.0.0"),
            *("--port", str(parts.port or 8000), "--enable-scale-out", "--logprobs-mode", "processed_logprobs"),
            *("--max-model-len", str(policy.context_tokens), "--generation-config", "vllm"),
            *("--limit-mm-per-prompt", json.dumps({"image": 1, "video": 0})),
            *("--mm-processor-kwargs", json.dumps(policy.processor_settings)),
            *("--worker-extension-cls", f"{_WORKER}.ServerWorker"),
            *(("--weight-transfer-config", '{"backend": "nccl"}') if self.transfer.backend == "nccl" else ()),
            *(("--middleware", f"{_WORKER}.RequireToken") if self.token_variable else ()),
        ]
        return f"VLLM_SERVER_DEV_MODE=1 VLLM_USE_V2_MODEL_RUNNER=0 {shlex.join(command)}"


@contextmanager
def _to_the_end(weights: Weights) -> Iterator[Weights]:
    """Run through the weights that are left, whatever happens: other ranks wait to gather each with this one."""
    remaining = iter(weights)
    try:
        yield remaining
    finally:
        for _ in remaining:
            pass


def _typed(weights: Weights, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    return ((name, weight.to(dtype)) for name, weight in weights)


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
