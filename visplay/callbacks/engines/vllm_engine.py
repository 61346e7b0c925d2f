"""vLLM in the training process: started, loaded, asked, put to sleep, and ended, with the process left as it was."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from visplay.callbacks.engines.process_state import Guest
from visplay.callbacks.engines.vllm_weights import Held, held, repack
from visplay.modules.policy.vlm import VLM

T = TypeVar("T")
_SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # its sampler has no place for log-probabilities before truncation
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
        max_sequences: Most sequences decoded side by side.
        max_batched_tokens: Most tokens of one forward pass; with CUDA a longer prompt is read in pieces.
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
            raise ValueError(f"gpu_memory_utilization: {self.gpu_memory_utilization} must lie above 0 and at most at 1")
        if self.cache_gib is not None and self.cache_gib <= 0:
            raise ValueError(f"cache_gib: {self.cache_gib} must be above 0, or null")
        for name in ("max_sequences", "max_batched_tokens", "images_per_prompt", "tensor_parallel_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be at least 1")


class EngineTimeoutError(RuntimeError):
    """The engine made no step within the time limit."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise when the body takes longer: wherever Python runs or waits, not within a call that never returns to it.

    Raises:
        EngineTimeoutError: The time is over. Outside the main thread there is no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: Any) -> None:
        raise EngineTimeoutError(f"no step within {seconds:g} s (timeout_seconds)")

    start, previous = time.monotonic(), signal.signal(signal.SIGALRM, stop)
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        if remaining:  # somebody else's alarm goes on
            signal.setitimer(signal.ITIMER_REAL, max(remaining - (time.monotonic() - start), 1e-3), interval)


class VLLMEngine:
    """One engine of vLLM, without weights until ``load``.

    Args:
        policy: Whose architecture, context and images it serves.
        settings: What it is started with.
        dtype: Of its weights.
        timeout_seconds: Time limit of one step.
    """

    def __init__(self, policy: VLM, settings: EngineSettings, dtype: torch.dtype, timeout_seconds: float) -> None:
        self.dtype = dtype
        self.timeout_seconds = timeout_seconds
        self._guest = Guest()
        self._cuda = policy.device.type == "cuda"
        self._eager = settings.eager or not self._cuda
        self._asleep: set[str] = set()
        with self._running():
            os.environ.update(_SETTINGS)
            os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
            _name_ranks()
            from vllm import LLM

            self._llm: Any = LLM(**self._arguments(policy, settings))
            report_before_truncation(self._runner)
        atexit.register(self.close)  # before vLLM's own exit, which needs its state of the process

    def _arguments(self, policy: VLM, settings: EngineSettings) -> dict[str, Any]:
        longest = policy.most_image_tokens if self._cuda else policy.context_tokens
        gib = settings.cache_gib if settings.cache_gib or self._cuda else _CPU_CACHE_GIB
        return {
            "model": policy.path,
            "revision": policy.revision,
            "dtype": str(self.dtype).removeprefix("torch."),
            "enforce_eager": self._eager,
            "distributed_executor_backend": "external_launcher" if ranks() > 1 else "uni",
            "tensor_parallel_size": settings.tensor_parallel_size,
            "gpu_memory_utilization": settings.gpu_memory_utilization,
            "kv_cache_memory_bytes": None if gib is None else int(gib * 2**30),
            "block_size": None if self._cuda else 32,  # 128 by default there, longer than many a prompt
            "max_model_len": policy.context_tokens,
            "max_num_seqs": settings.max_sequences,
            "max_num_batched_tokens": max(settings.max_batched_tokens, longest),
            "enable_chunked_prefill": self._cuda,  # on a CPU a request with a seed cannot be read in pieces
            "limit_mm_per_prompt": {"image": settings.images_per_prompt, "video": 0},
            "mm_processor_kwargs": policy.processor_settings,
            "logprobs_mode": "processed_logprobs",
            "enable_prefix_caching": True,
            "enable_sleep_mode": self._cuda,
            "generation_config": "vllm",
            "disable_log_stats": True,
            "seed": 0,
        }

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Within it the process is vLLM's; functions that it would compile on a CPU run as they are."""
        without_autocast = torch.autocast("cuda" if self._cuda else "cpu", enabled=False)  # the trainer's
        with self._guest(), warnings.catch_warnings(), without_autocast:
            for kind in (DeprecationWarning, FutureWarning):  # of what vLLM and its libraries call
                warnings.simplefilter("ignore", kind)
            with torch.compiler.set_stance("force_eager" if self._eager else "default"):
                yield

    @property
    def _runner(self) -> Any:
        return self._llm.llm_engine.model_executor.driver_worker.worker.model_runner

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take these weights, tensor by tensor, and forget what was computed with others."""
        typed = ((name, weight.to(self.dtype)) for name, weight in weights)
        with self._running():
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": typed})
            repack(self._runner.model)
            self._llm.reset_prefix_cache()
            self._llm.llm_engine.engine_core.reset_encoder_cache()

    def held(self, names: Sequence[str]) -> list[Held]:
        """What every rank that shares the weights holds, see ``visplay.callbacks.engines.vllm_weights.held``."""
        with self._running(), torch.no_grad():
            return _gather(held(self._runner.model, names))

    def generate(self, requests: Sequence[dict[str, Any]], parameters: Sequence[dict[str, Any]]) -> list[Any]:
        """Answer every request with vLLM's ``RequestOutput``, in the order of the requests.

        Ranks that share the weights answer the requests of all of them together; each gets its own back.

        Raises:
            EngineTimeoutError: A step takes longer than the time limit.
        """
        with self._running():
            asked = _gather((list(requests), list(parameters)))
            first = sum(len(each) for each, _ in asked[: _place_among_ranks()])
            outputs = self._answer([r for each, _ in asked for r in each], [p for _, each in asked for p in each])
        return outputs[first : first + len(requests)]

    def _answer(self, requests: list[dict[str, Any]], parameters: list[dict[str, Any]]) -> list[Any]:
        from vllm import SamplingParams

        sampling = [SamplingParams(**each) for each in parameters]
        ids = self._llm.enqueue(requests, sampling, use_tqdm=False)
        done: dict[str, Any] = {}
        while self._llm.llm_engine.has_unfinished_requests():
            with time_limit(self.timeout_seconds):
                outputs = self._llm.llm_engine.step()
            done |= {output.request_id: output for output in outputs if output.finished}
        return [done[request_id.rpartition("-")[0]] for request_id in ids]

    def sleep(self) -> bool:
        """Give weights and cache back to the GPU; they are not kept. Returns whether there was anything to give."""
        if not self._cuda or self._asleep:
            return False
        with self._running():
            self._llm.sleep(level=2)
        self._asleep = {"weights", "kv_cache"}
        return True

    def wake(self, part: Literal["weights", "kv_cache"]) -> None:
        """Make room for a part again: the weights before they are loaded, the cache after that."""
        if part in self._asleep:
            torch.cuda.empty_cache()
            with self._running():
                self._llm.wake_up([part])
            self._asleep.remove(part)

    def close(self) -> None:
        """End the engine and free what it held."""
        atexit.unregister(self.close)
        with self._running():
            if ranks() > 1:
                torch.distributed.GroupMember.WORLD = None  # the trainer's: vLLM would destroy it with its own
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
            gc.collect()
        if self._cuda:
            torch.cuda.empty_cache()


def ranks() -> int:
    """Number of processes that train together."""
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _name_ranks() -> None:
    """Set what vLLM reads where several ranks were launched; Lightning's launcher sets only a part of it."""
    if ranks() > 1:
        rank = torch.distributed.get_rank()
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks()))
        os.environ.setdefault("LOCAL_RANK", str(rank))


def _gather(value: T) -> list[T]:
    """The values of all ranks that share the weights, in their order."""
    from vllm.distributed.parallel_state import get_tp_group

    group = get_tp_group()
    if group.world_size == 1:
        return [value]
    values: list[Any] = [None] * group.world_size
    torch.distributed.all_gather_object(values, value, group=group.cpu_group)
    return values


def _place_among_ranks() -> int:
    from vllm.distributed.parallel_state import get_tp_group

    return get_tp_group().rank_in_group


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
