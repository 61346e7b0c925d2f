"""The rollout engine as a callback: its lifetime, and which policy at which version it holds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from lightning import Callback, LightningModule, Trainer

from visplay.modules.policy.vlm import VLM
from visplay.types import Completion, Prompt, Sampling

_HALF = {"bf16": torch.bfloat16, "16": torch.float16}


def compute_dtype(precision: str) -> torch.dtype:
    """What a trainer of a precision multiplies in.

    Example:
        >>> compute_dtype("bf16-mixed")
        torch.bfloat16
    """
    return _HALF.get(precision.partition("-")[0], torch.float32)


class RolloutError(RuntimeError):
    """The engine cannot be started, reached or kept running, or does not fit; the policy's weights are as they were."""


class WrongWeightsError(RuntimeError):
    """The engine holds other weights than the policy it was asked to sample from."""


class RolloutEngine(Callback, ABC):
    """Serves every policy from one engine, started at the first ``generate`` and closed with the trainer.

    Subclasses implement ``sample`` and, where weights are copied, ``load_weights``, ``sleep``, ``wake`` and ``close``.
    Modules see this object as the ``visplay.types.Engine`` protocol.
    """

    def __init__(self) -> None:
        self.held: tuple[str, int] | None = None
        self.trainer: Trainer | None = None
        self._kept = False

    @property
    def shared(self) -> bool:
        """Whether other ranks wait for this one even where it has nothing to ask."""
        return False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hand this engine to the module as a lazy handle."""
        self.trainer = trainer
        pl_module.attach_engine(self)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the engine with the run, or within ``kept`` let it forget what it holds."""
        self.held = None
        if not self._kept:
            self.close()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Let the engine outlive the trainer's runs within the block, as to evaluate one model after the other."""
        self._kept = True
        try:
            yield
        finally:
            self._kept = False
            self.close()

    def device_for(self, policy: VLM) -> torch.device:
        """Where the trainer computes; the weights of a policy may lie elsewhere."""
        return policy.device if self.trainer is None else self.trainer.strategy.root_device

    @torch.no_grad()
    def generate(self, policy: VLM, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Sample ``sampling.n`` completions for each prompt from the policy as it is now.

        Every sample is drawn from a seed of its own, derived from ``sampling.seed``, the prompt's key and the sample's
        number; so the result does not depend on the order or the batching of the prompts.

        Returns:
            One list of ``sampling.n`` completions per prompt, in the order of the prompts.

        Raises:
            ValueError: Two prompts share a key, or the token limit leaves no room in the context.
        """
        _check(policy, prompts, sampling)
        if not prompts and not self.shared:
            return []
        self.wake()
        self.load(policy)
        training = policy.training
        policy.eval()
        try:
            return self.sample(policy, prompts, sampling)
        finally:
            policy.train(training)

    def load(self, policy: VLM) -> None:
        """Hold this policy at its present version; nothing happens if it is held already."""
        wanted = (policy.name, policy.version)
        if self.held != wanted:
            self.load_weights(policy)
            self.held = wanted

    @abstractmethod
    def sample(self, policy: VLM, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Sample from the loaded policy; see ``generate``."""

    @abstractmethod
    def load_weights(self, policy: VLM) -> None:
        """Bring the policy's weights into the engine."""

    def sleep(self) -> None:
        """Give memory back while a policy is being updated."""
        return

    def wake(self) -> None:
        """Undo ``sleep``."""
        return

    def close(self) -> None:
        """End the engine and forget what it held."""
        self.held = None


def _check(policy: VLM, prompts: Sequence[Prompt], sampling: Sampling) -> None:
    if len({prompt.key for prompt in prompts}) != len(prompts):
        keys = [prompt.key for prompt in prompts]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise ValueError(f"prompts: keys must differ, got {twice[:5]} twice")
    if sampling.n < 1 or not 0 < sampling.max_new_tokens < policy.context_tokens:
        raise ValueError(
            f"sampling: n={sampling.n} must be at least 1 and max_new_tokens={sampling.max_new_tokens} between "
            f"1 and the context of {policy.context_tokens} tokens"
        )
