"""Rollouts with vLLM in the training process, from weights that are proven to be the trainer's."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from lightning import LightningModule, Trainer

from visplay.callbacks.engines.engine import RolloutEngine, RolloutError, WrongWeightsError, compute_dtype
from visplay.callbacks.engines.vllm_engine import EngineSettings, VLLMEngine, ranks
from visplay.callbacks.engines.vllm_requests import FINISHED, check_length, prompt_seed, sampling_parameters
from visplay.callbacks.engines.vllm_weights import Held, checksums, differing
from visplay.modules.policy.vlm import VLM
from visplay.types import Completion, Prompt, Sampling

logger = logging.getLogger(__name__)

T = TypeVar("T")


class VLLMRollout(RolloutEngine):
    """One engine of vLLM in this process serves every policy; it takes the weights of whichever is asked.

    Args:
        engine: What vLLM is started with.
        verify: Whether, after every load, a checksum of each tensor held is compared with the policy's.
        sleep_in_update: Whether the engine gives its memory back while a policy is updated (CUDA).
        timeout_seconds: A step that takes longer means that the engine hangs; it is built anew, once.
    """

    def __init__(
        self,
        engine: EngineSettings = EngineSettings(),  # noqa: B008 (frozen)
        verify: bool = True,
        sleep_in_update: bool = True,
        timeout_seconds: float = 300.0,
    ) -> None:
        super().__init__()
        if timeout_seconds <= 0:
            raise ValueError(f"timeout_seconds: {timeout_seconds} must be above 0")
        self.engine = engine
        self.verify = verify
        self.sleep_in_update = sleep_in_update
        self.timeout_seconds = timeout_seconds
        self._running: VLLMEngine | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hand this engine to the module, and see that vLLM is there before anything is trained.

        Raises:
            ImportError: It is not.
        """
        super().setup(trainer, pl_module, stage)
        if importlib.util.find_spec("vllm") is None:
            raise ImportError("VLLMRollout needs vLLM: install visplay[vllm], or use TransformersRollout")

    @property
    def shared(self) -> bool:
        """True where several ranks share one copy of the weights."""
        return self.engine.tensor_parallel_size > 1

    def generate(self, policy: VLM, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Sample as ``RolloutEngine.generate`` does; an engine that fails or hangs is built anew, once.

        The engines of several ranks start together, so there one that fails is not built anew.

        Raises:
            RolloutError: It failed again. The policy's weights are untouched.
            WrongWeightsError: It holds other weights than the policy's.
        """
        for attempt in range(1 if ranks() > 1 else 2):
            try:
                return super().generate(policy, prompts, sampling)
            except _EngineFault as error:
                fault = error
                self._drop()
                logger.warning("vLLM failed%s: %s", " again" if attempt else "; it is built anew", fault)
        raise RolloutError(
            f"vLLM failed while it sampled from {policy.name!r} at version {policy.version}: {fault}. The policy's "
            f"weights are untouched; go on from the last checkpoint ({self._last_checkpoint()}) with fewer "
            "max_sequences, a smaller gpu_memory_utilization or a longer timeout_seconds, or with TransformersRollout"
        ) from fault.__cause__

    def sample(self, policy: VLM, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Ask for every prompt's completions at once; vLLM reads each prompt, and each image, one time."""
        requests = [_request(prompt) for prompt in prompts]
        shared = sampling_parameters(policy, sampling) | {"flat_logprobs": True}
        parameters = [shared | {"seed": prompt_seed(prompt, sampling)} for prompt in prompts]
        outputs = self._call(lambda engine: _ask(engine, requests, parameters))
        advice = f"check {type(policy).__name__}.processor_settings"
        for prompt, output in zip(prompts, outputs, strict=True):
            check_length(policy, prompt, len(output.prompt_token_ids), advice)
        groups = [[_completion(policy, each) for each in output.outputs] for output in outputs]
        return [group * (sampling.n // len(group)) for group in groups]  # greedy: one stands for all

    def load(self, policy: VLM) -> None:
        """Hold this policy at its present version, and make room for the cache."""
        super().load(policy)
        self._call(lambda engine: engine.wake("kv_cache"))

    def load_weights(self, policy: VLM) -> None:
        """Send the policy's weights, starting the engine if there is none, and compare what arrived.

        Raises:
            WrongWeightsError: A tensor that the engine holds is not the policy's.
        """
        if self._running is None:
            self._running = self._start(policy)
        self._call(lambda engine: engine.load(policy.weights(self.device_for(policy))))
        if self.verify:
            self._compare(policy)

    def sleep(self) -> None:
        """Give the GPU's memory back; the next policy is loaded afresh."""
        if self._running is None or not self.sleep_in_update:
            return
        try:
            if self._call(lambda engine: engine.sleep()):
                self.held = None
        except _EngineFault as fault:
            logger.warning("vLLM does not sleep; the next rollout builds it anew: %s", fault)
            self._drop()

    def wake(self) -> None:
        """Make room for weights again."""
        if self._running is not None:
            self._call(lambda engine: engine.wake("weights"))

    def close(self) -> None:
        """End the engine and forget what it held."""
        super().close()
        engine, self._running = self._running, None
        if engine is not None:
            engine.close()

    def _start(self, policy: VLM) -> VLLMEngine:
        try:
            return VLLMEngine(policy, self.engine, self._dtype(), self.timeout_seconds)
        except Exception as error:  # whatever vLLM raises, a person has to change a setting
            raise RolloutError(
                f"vLLM does not start with {self.engine} and a context of {policy.context_tokens} tokens: {error}. "
                f"{_advice(str(error))}"
            ) from error

    def _compare(self, policy: VLM) -> None:
        sent = checksums(policy.weights(self.device_for(policy)), self._dtype())
        workers: list[Held] = self._call(lambda engine: engine.held(list(sent)))
        wrong = differing(sent, workers)
        if wrong:
            raise WrongWeightsError(
                f"vLLM holds other weights than {policy.name!r} at version {policy.version} in {len(wrong)} of "
                f"{len(workers[0].sources)} tensors: {', '.join(wrong[:5])}; nothing was sampled. Check the names that "
                f"{type(policy).__name__}.weights() gives them, and that nothing else writes to the engine"
            )

    def _call(self, act: Callable[[VLLMEngine], T]) -> T:
        assert self._running is not None, "it is started by load_weights"
        try:
            return act(self._running)
        except Exception as error:  # whatever vLLM raises, the state it is left in is unknown
            raise _EngineFault(f"{type(error).__name__}: {error}") from error

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

    def _last_checkpoint(self) -> str:
        callback = None if self.trainer is None else self.trainer.checkpoint_callback
        return getattr(callback, "last_model_path", "") or getattr(callback, "best_model_path", "") or "there is none"


class _EngineFault(Exception):
    """vLLM raised, or gave no answer."""


def _ask(engine: VLLMEngine, requests: Sequence[dict[str, Any]], parameters: Sequence[dict[str, Any]]) -> list[Any]:
    """Answers to all requests; one that was aborted is asked again, once."""
    outputs = engine.generate(requests, parameters)
    lost = [index for index, output in enumerate(outputs) if not _is_whole(output)]
    if lost:
        again = engine.generate([requests[index] for index in lost], [parameters[index] for index in lost])
        for index, output in zip(lost, again, strict=True):
            if not _is_whole(output):
                reasons = {each.finish_reason for each in output.outputs}
                raise RuntimeError(f"request {index} was aborted twice ({', '.join(map(str, reasons))})")
            outputs[index] = output
    return outputs


def _is_whole(output: Any) -> bool:
    return all(each.finish_reason in FINISHED for each in output.outputs)


def _request(prompt: Prompt) -> dict[str, Any]:
    """Token ids with one placeholder per image, and the images; vLLM expands them itself."""
    images = {"multi_modal_data": {"image": list(prompt.images)}} if prompt.images else {}
    return {"prompt_token_ids": list(prompt.token_ids)} | images


def _completion(policy: VLM, output: Any) -> Completion:
    ids, reported = list(output.token_ids), output.logprobs
    logps = tuple(reported.logprobs[start] for start in reported.start_indices)
    if len(logps) != len(ids):
        raise RuntimeError(f"vLLM reports {len(logps)} log-probabilities for {len(ids)} tokens")
    return Completion(tuple(ids), logps, policy.decode(ids), FINISHED[output.finish_reason])


def _advice(error: str) -> str:
    """Which setting to change."""
    if "KV cache" in error or "max_model_len" in error or "max seq len" in error:
        return "Lower the policy's max_context_tokens, or raise gpu_memory_utilization or cache_gib"
    if "emory" in error:
        return "Lower gpu_memory_utilization or cache_gib, or end what else uses the device"
    return "See the settings of `rollout.init_args.engine`; TransformersRollout works without vLLM"
