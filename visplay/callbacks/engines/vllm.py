"""Rollouts with vLLM in the training process, from weights that are proven to be the trainer's."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, TypeVar

import torch
from lightning import LightningModule, Trainer

from visplay.callbacks.engines.engine import RolloutEngine, RolloutError, compute_dtype
from visplay.callbacks.engines.vllm_engine import (
    FINISHED,
    EngineSettings,
    VLLMEngine,
    check_length,
    sampling_parameters,
)
from visplay.callbacks.engines.vllm_weights import checksums, verify
from visplay.modules.policy.vlm import VLM
from visplay.ranks import rank, world_size
from visplay.types import Completion, Prompt, Sampling

logger = logging.getLogger(__name__)

T = TypeVar("T")


class VLLMRollout(RolloutEngine):
    """One engine of vLLM in this process serves every policy; it takes the weights of whichever is asked.

    Args:
        engine: What vLLM is started with.
        verify: Whether, after every load, a checksum of each loaded tensor is compared with the policy's.
        sleep_in_update: Whether the engine gives its memory back while a policy is updated (CUDA).
        timeout_seconds: One step of the engine (a forward pass of whatever it has under way), or one load of weights,
            that takes longer means that it hangs: it is built anew, once. Null waits for ever.
    """

    def __init__(
        self,
        engine: EngineSettings = EngineSettings(),  # noqa: B008 (frozen)
        verify: bool = True,
        sleep_in_update: bool = True,
        timeout_seconds: float | None = 300.0,
    ) -> None:
        super().__init__()
        if timeout_seconds is not None and timeout_seconds <= 0:
            raise ValueError(f"timeout_seconds: {timeout_seconds} must be above 0, or null")
        self.engine = engine
        self.verify = verify
        self.sleep_in_update = sleep_in_update
        self.timeout_seconds = timeout_seconds
        self._running: VLLMEngine | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hand this engine to the module, and see that vLLM and its ranks are there before anything is trained.

        Raises:
            ImportError: vLLM is not.
            ValueError: The ranks cannot be divided into groups of ``tensor_parallel_size``.
        """
        super().setup(trainer, pl_module, stage)
        if importlib.util.find_spec("vllm") is None:
            raise ImportError("VLLMRollout needs vLLM: install visplay[vllm], or use TransformersRollout")
        if trainer.world_size % self.engine.tensor_parallel_size:
            raise ValueError(
                f"tensor_parallel_size: {self.engine.tensor_parallel_size} must divide the number of ranks, "
                f"{trainer.world_size} (trainer.devices times trainer.num_nodes)"
            )

    def generate_each(
        self, policy: Any, prompts: Sequence[Prompt], samplings: Sequence[Sampling]
    ) -> list[list[list[Completion]]]:
        """Sample as ``RolloutEngine.generate_each`` does; an engine that fails or hangs is built anew, once.

        The engines of several ranks start together, so there one that fails is not built anew.

        Raises:
            RolloutError: It failed again. The policy's weights are untouched.
            WrongWeightsError: It holds other weights than the policy's.
        """
        for attempt in range(1 if world_size() > 1 else 2):
            try:
                return super().generate_each(policy, prompts, samplings)
            except _EngineFailure as error:
                failure = error
                self._drop()
                logger.warning("vLLM failed%s: %s", " again" if attempt else "; it is built anew", failure)
        raise RolloutError(
            f"vLLM failed while it sampled from {policy.name!r} at version {policy.version}: {failure}. The "
            "policy's weights are untouched; continue with fewer max_sequences, a smaller gpu_memory_utilization or a "
            f"longer timeout_seconds (now {self.timeout_seconds}), or with TransformersRollout"
        ) from failure.__cause__

    def sample(self, policy: VLM, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Ask for every prompt's completions at once; vLLM reads each prompt, and each image, one time."""
        return self.sample_each(policy, prompts, [sampling])[0]

    def sample_each(
        self, policy: VLM, prompts: Sequence[Prompt], samplings: Sequence[Sampling]
    ) -> list[list[list[Completion]]]:
        """Ask for all of them at once."""
        requests: list[dict[str, Any]] = [{"prompt_token_ids": list(prompt.token_ids)} for prompt in prompts]
        for prompt, request in zip(prompts, requests, strict=True):
            if prompt.images:  # one placeholder each, which vLLM expands itself
                request["multi_modal_data"] = {"image": list(prompt.images)}
        parameters = [each for sampling in samplings for each in sampling_parameters(policy, prompts, sampling)]
        flat = [each | {"flat_logprobs": True} for each in parameters]
        outputs = iter(self._call(lambda engine: engine.generate(requests * len(samplings), flat)))
        return [self._groups(policy, prompts, list(islice(outputs, len(prompts))), each.n) for each in samplings]

    def _groups(self, policy: VLM, prompts: Sequence[Prompt], outputs: list[Any], n: int) -> list[list[Completion]]:
        advice = f"check {type(policy).__name__}.processor_settings"
        for prompt, output in zip(prompts, outputs, strict=True):
            check_length(policy, prompt, len(output.prompt_token_ids), advice)
        groups = [[_completion(policy, each) for each in output.outputs] for output in outputs]
        return [group * (n // len(group)) for group in groups]  # greedy: one stands for all

    def load(self, policy: Any) -> None:
        """Load the policy, unless it is loaded at its present version, and make room for the cache."""
        super().load(policy)
        self._call(lambda engine: engine.wake("kv_cache"))

    def load_weights(self, policy: VLM) -> None:
        """Send the policy's weights, starting the engine if there is none, and compare what arrived.

        Raises:
            WrongWeightsError: A tensor that the engine holds is not the policy's.
        """
        if self._running is None:
            self._running = self._start(policy)
        device = self.device_for(policy)
        self._call(lambda engine: engine.load(policy.weights(device)))
        if self.verify:
            sent = checksums(policy.weights(device), self._dtype())
            verify(policy, sent, self._call(lambda engine: engine.loaded_weights(list(sent))), "vLLM")

    def sleep(self) -> None:
        """Give the GPU's memory back; the next policy is loaded afresh."""
        if self._running is None or not self.sleep_in_update:
            return
        try:
            if self._call(lambda engine: engine.sleep()):
                self.loaded = None
        except _EngineFailure as failure:
            if world_size() > 1:  # it cannot be built anew without the other ranks'
                raise RolloutError(f"vLLM does not sleep on rank {rank()}: {failure}") from failure.__cause__
            logger.warning("vLLM does not sleep; the next rollout builds it anew: %s", failure)
            self._drop()

    def wake(self) -> None:
        """Make room for weights again."""
        if self._running is not None:
            self._call(lambda engine: engine.wake("weights"))

    def close(self) -> None:
        """End the engine."""
        super().close()
        engine, self._running = self._running, None
        if engine is not None:
            engine.close()

    def _start(self, policy: VLM) -> VLLMEngine:
        if policy.path.endswith(".gguf"):
            raise RolloutError(
                f"path: vLLM is started from a directory, and {policy.path!r} is a GGUF file; write it as one with "
                f"{type(policy).__name__}.load and save, or sample with TransformersRollout"
            )
        try:
            return VLLMEngine(policy, self.engine, self.device_for(policy), self._dtype(), self.timeout_seconds)
        except Exception as error:  # whatever vLLM raises, a person has to change a setting
            text = str(error)
            if "KV cache" in text or "max_model_len" in text or "max seq len" in text:
                advice = "Lower the policy's max_context_tokens, or raise gpu_memory_utilization or cache_gib"
            elif "emory" in text:
                advice = "Lower gpu_memory_utilization or cache_gib, or end what else uses the device"
            else:
                advice = "See the settings of `rollout.init_args.engine`; TransformersRollout works without vLLM"
            raise RolloutError(
                f"vLLM does not start with {self.engine} and a context of {policy.context_tokens} tokens: "
                f"{type(error).__name__}: {error}. {advice}"
            ) from error

    def _call(self, act: Callable[[VLLMEngine], T]) -> T:
        assert self._running is not None, "it is started by load_weights"
        try:
            return act(self._running)
        except Exception as error:  # whatever vLLM raises, the state it is left in is unknown
            raise _EngineFailure(f"{type(error).__name__}: {error}") from error

    def _drop(self) -> None:
        """End an engine that failed, whatever it says to that."""
        try:
            self.close()
        except Exception as error:  # it is broken already
            logger.warning("vLLM did not end in order: %s", error)

    def _dtype(self) -> torch.dtype:
        if self.engine.dtype != "auto":
            return getattr(torch, self.engine.dtype)
        return torch.float32 if self.trainer is None else compute_dtype(str(self.trainer.precision))


class _EngineFailure(Exception):
    """vLLM raised, or gave no answer."""


def _completion(policy: VLM, output: Any) -> Completion:
    ids, reported = list(output.token_ids), output.logprobs
    logps = tuple(reported.logprobs[start] for start in reported.start_indices)
    if len(logps) != len(ids):
        raise RuntimeError(f"vLLM reports {len(logps)} log-probabilities for {len(ids)} tokens")
    return Completion(tuple(ids), logps, policy.decode(ids), FINISHED[output.finish_reason])
