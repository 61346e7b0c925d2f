"""vLLM in the training process, which is left as it was; and what vLLM is asked, here and of a server."""

from __future__ import annotations

import atexit
import gc
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from visplay.callbacks.engines.engine import RolloutError
from visplay.callbacks.engines.process_state import StateSwap
from visplay.callbacks.engines.time_limit import time_limit
from visplay.callbacks.engines.vllm_weights import LoadedWeights, load, loaded_weights
from visplay.modules.policy.vlm import VLM
from visplay.ranks import rank, world_size
from visplay.types import Prompt, Sampling, derive_seed

T = TypeVar("T")

FINISHED = {"stop": True, "length": False}
"""Reasons why vLLM ends a completion, and whether it is finished then; all others are failures."""
_NEVER = -1e9  # added to the logits of tokens that must not be sampled
_SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # its sampler cannot report log-probabilities before truncation
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
_CPU_CACHE_GIB = 1.0


@dataclass(frozen=True)
class EngineSettings:
    """What vLLM is started with; the model, its context and its images are the policy's.

    Args:
        dtype: Of the engine's weights; "auto" is what the trainer's precision computes in.
        gpu_memory_utilization: Fraction of a GPU's memory that weights and cache may take while the engine is awake.
        cache_gib: Key-value cache in GiB; null takes what ``gpu_memory_utilization`` leaves (on a CPU, 1 GiB).
        max_sequences: Most sequences decoded concurrently.
        max_batched_tokens: Most tokens of one forward pass; with CUDA a longer prompt is read in chunks.
        images_per_prompt: Most images of a prompt.
        tensor_parallel_size: Ranks that share one copy of the weights; divides the number of ranks.
        eager: Whether CUDA graphs and compilation are left out; slower, starts sooner. A CPU is always eager.
    """

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    gpu_memory_utilization: float = 0.5
    cache_gib: float | None = None
    max_sequences: int = 256
    max_batched_tokens: int = 8192
    images_per_prompt: int = 1
    tensor_parallel_size: int = 1
    eager: bool = False

    def __post_init__(self) -> None:
        """Reject what cannot be started."""
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ValueError(f"gpu_memory_utilization: {self.gpu_memory_utilization} must be above 0 and at most 1")
        if self.cache_gib is not None and self.cache_gib <= 0:
            raise ValueError(f"cache_gib: {self.cache_gib} must be above 0, or null")
        for name in ("max_sequences", "max_batched_tokens", "images_per_prompt", "tensor_parallel_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be at least 1")


class VLLMEngine:
    """One engine of vLLM, without weights until ``load``.

    Args:
        policy: Whose architecture, context and images it serves.
        settings: What it is started with.
        device: Where it computes.
        dtype: Of its weights.
        timeout_seconds: Time limit of one step, and of every other call; None is none.
    """

    def __init__(
        self,
        policy: VLM,
        settings: EngineSettings,
        device: torch.device,
        dtype: torch.dtype,
        timeout_seconds: float | None,
    ) -> None:
        self.dtype = dtype
        self.timeout_seconds = timeout_seconds
        self._state = StateSwap()
        self._cuda = cuda = device.type == "cuda"
        self._eager = settings.eager or not cuda
        self._asleep: set[str] = set()
        dtype_name: Any = str(dtype).removeprefix("torch.")
        gib = settings.cache_gib if settings.cache_gib or cuda else _CPU_CACHE_GIB
        with self._running():
            os.environ.update(_SETTINGS)
            os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
            if world_size() > 1:
                os.environ.update(rank_variables(device))
            else:  # where nobody is connected to; gloo listens where the name of the host leads, which may be outside
                os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
            from vllm import LLM

            self._llm: Any = LLM(
                model=policy.path,
                revision=policy.revision,
                dtype=dtype_name,
                enforce_eager=self._eager,
                distributed_executor_backend="external_launcher" if world_size() > 1 else "uni",
                tensor_parallel_size=settings.tensor_parallel_size,
                gpu_memory_utilization=settings.gpu_memory_utilization,
                kv_cache_memory_bytes=None if gib is None else int(gib * 2**30),
                block_size=None if cuda else 32,  # 128 by default there, longer than many a prompt
                max_model_len=policy.context_tokens,
                max_num_seqs=settings.max_sequences,
                max_num_batched_tokens=max(
                    settings.max_batched_tokens, policy.most_image_tokens if cuda else policy.context_tokens
                ),
                enable_chunked_prefill=cuda,  # on a CPU a request with a seed cannot be read in chunks
                limit_mm_per_prompt={"image": settings.images_per_prompt, "video": 0},
                mm_processor_kwargs=policy.processor_settings,
                logprobs_mode="processed_logprobs",
                enable_prefix_caching=True,
                enable_sleep_mode=cuda,
                generation_config="vllm",
                disable_log_stats=True,
                seed=0,
            )
            report_before_truncation(self._runner)
        atexit.register(self.close)  # before vLLM's own exit, which needs its state of the process

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Within it the process is vLLM's; functions that it would compile on a CPU run as they are."""
        without_autocast = torch.autocast("cuda" if self._cuda else "cpu", enabled=False)  # the trainer's
        with self._state(), warnings.catch_warnings(), without_autocast:
            for kind in (DeprecationWarning, FutureWarning):  # of what vLLM and its libraries call
                warnings.simplefilter("ignore", kind)
            with torch.compiler.set_stance("force_eager" if self._eager else "default"):
                yield

    @property
    def _runner(self) -> Any:
        return self._llm.llm_engine.model_executor.driver_worker.worker.model_runner

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Load these weights, see ``visplay.callbacks.engines.vllm_weights.load``."""
        with self._running(), time_limit(self.timeout_seconds):
            load(self._llm, weights, self.dtype)

    def loaded_weights(self, names: Sequence[str]) -> list[LoadedWeights]:
        """What every rank that shares the weights computes with, in the order of the ranks."""
        with self._running(), torch.no_grad(), time_limit(self.timeout_seconds):
            return _gather(loaded_weights(self._runner.model, names))[0]

    def generate(self, requests: Sequence[dict[str, Any]], parameters: Sequence[dict[str, Any]]) -> list[Any]:
        """Answer every request with vLLM's ``RequestOutput``, in the order of the requests.

        Ranks that share the weights answer the requests of all of them together; each gets its own back. A request that
        is aborted is made again, once.

        Raises:
            RuntimeError: A request was aborted twice.
            TimeoutError: A step takes longer than the time limit.
        """
        with self._running():
            asked, own = _gather(list(zip(requests, parameters, strict=True)))
            of_all = [each for of_rank in asked for each in of_rank]
            outputs = self._answer(of_all)
            aborted = [index for index, output in enumerate(outputs) if _unusable_reasons(output)]
            again = self._answer([of_all[index] for index in aborted])
            for index, output in zip(aborted, again, strict=True):
                if reasons := _unusable_reasons(output):
                    raise RuntimeError(f"request {index} was aborted twice ({', '.join(map(str, reasons))})")
                outputs[index] = output
        first = sum(len(of_rank) for of_rank in asked[:own])
        return outputs[first : first + len(requests)]

    def _answer(self, asked: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> list[Any]:
        from vllm import SamplingParams

        sampling = [SamplingParams(**parameters) for _, parameters in asked]
        ids = self._llm.enqueue([request for request, _ in asked], sampling, use_tqdm=False)
        done: dict[str, Any] = {}
        while self._llm.llm_engine.has_unfinished_requests():
            with time_limit(self.timeout_seconds):
                outputs = self._llm.llm_engine.step()
            done |= {output.request_id: output for output in outputs if output.finished}
        return [done[each.rpartition("-")[0]] for each in ids]

    def sleep(self) -> bool:
        """Give weights and cache back to the GPU; they are not kept. Returns whether there was anything to give."""
        if not self._cuda or self._asleep:
            return False
        with self._running(), time_limit(self.timeout_seconds):
            self._llm.sleep(level=2)
        self._asleep = {"weights", "kv_cache"}
        return True

    def wake(self, part: Literal["weights", "kv_cache"]) -> None:
        """Make room for a part again: the weights before they are loaded, the cache after that."""
        if part in self._asleep:
            torch.cuda.empty_cache()
            with self._running(), time_limit(self.timeout_seconds):
                self._llm.wake_up([part])
            self._asleep.remove(part)

    def close(self) -> None:
        """End the engine and free its memory."""
        atexit.unregister(self.close)
        with self._running(), time_limit(self.timeout_seconds):
            if world_size() > 1:
                torch.distributed.GroupMember.WORLD = None  # the trainer's: vLLM would destroy it with its own
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
            gc.collect()
        if self._cuda:
            torch.cuda.empty_cache()


def rank_variables(device: torch.device) -> dict[str, str]:
    """What vLLM reads of the ranks, of which launchers set a part at most; its device is that of the local rank."""
    local_rank = rank() if device.index is None else device.index
    return {"RANK": str(rank()), "WORLD_SIZE": str(world_size()), "LOCAL_RANK": str(local_rank)}


def _unusable_reasons(output: Any) -> set[str | None]:
    """Why completions ended, where that was neither at a stop token nor at the limit."""
    return {each.finish_reason for each in output.outputs} - FINISHED.keys()


def _gather(value: T) -> tuple[list[T], int]:
    """The values of all ranks that share the weights, in their order, and which of them this rank is."""
    from vllm.distributed.parallel_state import get_tp_group

    group = get_tp_group()
    values: list[Any] = [value]
    if group.world_size > 1:
        values = [None] * group.world_size
        torch.distributed.all_gather_object(values, value, group=group.cpu_group)
    return values, group.rank_in_group


class _BeforeTruncation(torch.nn.Module):
    """Samples as vLLM does, and reports log-probabilities before top-k and top-p cut the distribution."""

    def __init__(self, sampler: Any) -> None:
        super().__init__()
        self.sampler = sampler
        sampler.logprobs_mode = "raw_logprobs"  # computes none itself

    def forward(self, logits: Tensor, generators: Any, k: Tensor | None, p: Tensor | None) -> tuple[Tensor, Tensor]:
        logps = logits.log_softmax(-1, dtype=torch.float32)
        return self.sampler(logits, generators, k, p)[0], logps


def report_before_truncation(runner: Any) -> None:
    """Have vLLM's model runner report log-probabilities before top-k and top-p cut the distribution."""
    runner.sampler.topk_topp_sampler = _BeforeTruncation(runner.sampler.topk_topp_sampler)


def sampling_parameters(policy: VLM, prompts: Sequence[Prompt], sampling: Sampling) -> list[dict[str, Any]]:
    """How vLLM draws for each prompt; greedy completions are all the same, so one is asked for.

    Sample i has the prompt's seed plus i; vLLM counts from the seed that it is given.
    """
    common = {
        "n": sampling.n if sampling.temperature else 1,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "max_tokens": sampling.max_new_tokens,
        "logprobs": 0,  # of the sampled token alone
        "logit_bias": dict.fromkeys(policy.banned_token_ids.tolist(), _NEVER),
        "stop_token_ids": list(policy.stop_token_ids),
        "ignore_eos": True,  # they are among the stop tokens
        "detokenize": False,
    }
    return [common | {"seed": (derive_seed(sampling.seed, prompt.key) >> 1) + sampling.first} for prompt in prompts]


def check_length(policy: VLM, prompt: Prompt, tokens: int, advice: str) -> None:
    """See that vLLM reads a prompt as the policy does, images expanded.

    Raises:
        RolloutError: It does not; ``advice`` ends the message.
    """
    if tokens != policy.prompt_tokens(prompt):
        raise RolloutError(
            f"prompt {prompt.key!r}: vLLM reads {tokens} tokens and the policy {policy.prompt_tokens(prompt)}; the two "
            f"cut its images differently, {advice}"
        )
