"""The rollout engine as a callback: its lifetime, and which policy at which version it has loaded."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from visplay.modules.policy.vlm import VLM
from visplay.ranks import world_size
from visplay.types import Completion, Engine, Prompt, Sampling

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
    """The engine computes with other weights than those of the policy it was asked to sample from."""


class RolloutEngine(Callback, Engine):
    """Serves every policy from one engine, started at the first ``generate`` and closed with the trainer.

    A new engine implements ``sample`` and ``load_weights`` and, where it has resources to give back, ``sleep``,
    ``wake`` and ``close``; where it has weights and a device of its own, ``begin``; where it can read prompts once and
    sample from them in several ways, ``sample_each``. What they promise is in ``docs/rollouts.md``.

    Attributes:
        loaded: Name and version of the policy whose weights the engine has; None if it has none.
        trainer: The run's trainer; None outside of a run.
    """

    def __init__(self) -> None:
        self.loaded: tuple[str, int] | None = None
        self.trainer: Trainer | None = None
        self._kept = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hand this engine to the module as a lazy handle.

        Raises:
            ValueError: A role is to sample while it learns, which this engine cannot.
        """
        ahead = [name for name, role in pl_module.roles.items() if role.config.staleness] if stage == "fit" else []
        if ahead and type(self).begin is Engine.begin:
            raise ValueError(
                f"{ahead[0]}.grpo.staleness: 1 samples while the policy is updated, and {type(self).__name__} computes "
                "where the trainer does; take VLLMServerRollout on other GPUs, or staleness: 0"
            )
        self.trainer = trainer
        pl_module.attach_engine(self)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the engine with the run; within ``kept`` only have the next policy loaded afresh."""
        self.loaded = None
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
        """Where the trainer computes; the weights of a policy may be elsewhere."""
        return policy.device if self.trainer is None else self.trainer.strategy.root_device

    def generate(self, policy: Any, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Sample, each completion from a seed of its own: of ``sampling.seed``, the prompt's key and its own number.

        So the result does not depend on the order or the batching of the prompts. All ranks call it together, one
        without prompts as well: an engine may start, load or sample only with all of them.

        Args:
            policy: A ``VLM``; modules know no more of it than ``visplay.types.Engine`` says.
            prompts: With keys that differ.
            sampling: How it samples.

        Raises:
            ValueError: Two prompts share a key, or the token limit leaves no room in the context.
        """
        return self.generate_each(policy, prompts, [sampling])[0]

    @torch.no_grad()
    def generate_each(
        self, policy: Any, prompts: Sequence[Prompt], samplings: Sequence[Sampling]
    ) -> list[list[list[Completion]]]:
        """Do as ``generate`` in each of several ways, in their order."""
        for sampling in samplings:
            self._check(policy, prompts, sampling)
        if not prompts and world_size() == 1:
            return [[] for _ in samplings]
        self.wake()
        self.load(policy)
        training = policy.model.training  # of a policy that shares its model, as the others have it
        policy.eval()
        try:
            if len(samplings) == 1:
                return [self.sample(policy, prompts, samplings[0])]
            return self.sample_each(policy, prompts, samplings)
        finally:
            policy.train(training)

    def _check(self, policy: Any, prompts: Sequence[Prompt], sampling: Sampling) -> None:
        """See that these prompts can be asked."""
        keys = [prompt.key for prompt in prompts]
        if len(set(keys)) != len(keys):
            twice = sorted({key for key in keys if keys.count(key) > 1})
            raise ValueError(f"prompts: keys must differ, got {twice[:5]} twice")
        if sampling.n < 1 or not 0 < sampling.max_new_tokens < policy.context_tokens:
            raise ValueError(
                f"sampling: n={sampling.n} must be at least 1 and max_new_tokens={sampling.max_new_tokens} between "
                f"1 and the context of {policy.context_tokens} tokens"
            )

    def load(self, policy: Any) -> None:
        """Load the policy's weights, unless they are loaded at its present version."""
        wanted = (policy.name, policy.version)
        if self.loaded != wanted:
            self.loaded = None  # whatever happens from here on
            self.load_weights(policy)
            self.loaded = wanted

    @abstractmethod
    def sample(self, policy: VLM, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Sample from the loaded policy; see ``generate``."""

    def sample_each(
        self, policy: VLM, prompts: Sequence[Prompt], samplings: Sequence[Sampling]
    ) -> list[list[list[Completion]]]:
        """Sample from the loaded policy in each of several ways; see ``generate_each``."""
        return [self.sample(policy, prompts, sampling) for sampling in samplings]

    @abstractmethod
    def load_weights(self, policy: VLM) -> None:
        """Bring the policy's weights into the engine."""

    def close(self) -> None:
        """End the engine; the next policy is loaded afresh."""
        self.loaded = None
