"""What a role is: a prompt, a parser and a reward around a policy."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import AdamW

from visplay.clock import Clock
from visplay.grading.worker import Grader
from visplay.modules.learner.group_batch import GroupBatch
from visplay.modules.learner.grpo import GRPO
from visplay.modules.learner.grpo_config import GRPOConfig
from visplay.modules.policy.vlm import VLM
from visplay.modules.training import GRPOModule
from visplay.prompts import Template
from visplay.ranks import begin_spread, check_alike, spread
from visplay.types import Completion, Engine, Example, Judgement, Prompt, Rollout, Sampling, UnlabeledImage, derive_seed


def distinct_keys(items: Sequence[UnlabeledImage | Example]) -> list[str]:
    """Keys of a batch; an item that comes again (a small collection) is told apart by a number.

    Example:
        >>> from PIL import Image
        >>> image = UnlabeledImage("cat.png", Image.new("RGB", (8, 8)))
        >>> distinct_keys([image, image])
        ['cat.png', 'cat.png@1']
    """
    seen: Counter[str] = Counter()
    keys = []
    for item in items:
        keys.append(f"{item.key}@{seen[item.key]}" if seen[item.key] else item.key)
        seen[item.key] += 1
    return keys


def by_completion(parts: Mapping[str, Tensor]) -> list[list[dict[str, float]]]:
    """Parts of rewards, each (N, G), as N lists of G dictionaries.

    Example:
        >>> by_completion({"valid": torch.tensor([[True, False]]), "difficulty": torch.tensor([[0.5, 0.0]])})
        [[{'valid': 1.0, 'difficulty': 0.5}, {'valid': 0.0, 'difficulty': 0.0}]]
    """
    values = torch.stack([part.double() for part in parts.values()], -1)  # (N, G, parts)
    return [[dict(zip(parts, paid, strict=True)) for paid in group] for group in values.tolist()]


class Role(GRPOModule):
    """A policy with a job, fitted alone or by the module that owns it; a subclass writes ``prompts`` and ``judge``.

    What identifies a role is ``name``: it is the prefix of the metrics, a part of every seed, and how configurations,
    exports and checkpoints call it. A checkpoint keeps the policy's weights and the optimizer of the phase.

    Args:
        template: The prompt.
        grpo: Settings of learning and sampling.
        vlm: The policy, for a role that is fitted alone; else the owner gives it.
        seed: Root of every draw, for a role that is fitted alone.

    Attributes:
        learns_from: What a step is given: "images", or "examples", which are questions with answers.
        vlm: The policy.
        grader: Compares answers.
    """

    name: ClassVar[str]
    learns_from: ClassVar[Literal["images", "examples"]]
    grader: Grader

    def __init__(self, template: Template, grpo: GRPOConfig, vlm: VLM | None, seed: int) -> None:
        super().__init__(seed)
        self.template = template
        self.learner = GRPO(grpo, self.clock)
        self._engine: Engine | None = None
        if vlm is not None:
            self.adopt(vlm, self.clock)

    @property
    def roles(self) -> Mapping[str, Role]:
        """This role alone."""
        return {self.name: self}

    def configure_model(self) -> None:
        """Load the policy.

        Raises:
            ValueError: It has none.
        """
        if not hasattr(self, "vlm"):
            raise ValueError(f"vlm: a {type(self).__name__} that is fitted alone needs a model, got null")
        self.load_policy(self.vlm)

    @property
    def config(self) -> GRPOConfig:
        """Settings of learning and sampling."""
        return self.learner.config

    @property
    def templates(self) -> tuple[Template | None, ...]:
        """What it prompts its policy with; null is another one of them."""
        return (self.template,)

    @property
    def engine(self) -> Engine:
        """The rollout engine.

        Raises:
            RuntimeError: No engine is attached.
        """
        if self._engine is None:
            raise RuntimeError("no rollout engine: give the trainer one, for example `rollout: TransformersRollout`")
        return self._engine

    def adopt(self, vlm: VLM, clock: Clock) -> None:
        """Take a policy of one's own and the clock of the run."""
        vlm.name = self.name
        self.vlm = vlm
        self.clock = self.learner.clock = clock

    def attach_engine(self, engine: Engine) -> None:
        """Keep a handle on the engine."""
        self._engine = engine

    def make_optimizer(self) -> AdamW:
        """AdamW over the policy's trainable weights.

        Raises:
            TypeError: A trainable weight is not float32, in which a step of 1e-6 would be rounded away.
        """
        weights = self.vlm.trained_weights()
        if any(str(p.dtype) != "torch.float32" for p in weights):
            raise TypeError("precision: trainable weights must be float32; use bf16-mixed to compute in bfloat16")
        c = self.config
        return AdamW(weights, lr=c.learning_rate, betas=c.betas, weight_decay=c.weight_decay, fused=True)

    def sampling(self, n: int, seed: int, **settings: float | None) -> Sampling:
        """How this role samples ``n`` completions; ``settings`` of ``Sampling`` override its own, unless None."""
        c = self.config
        own = Sampling(n, c.max_new_tokens, c.temperature, c.top_p, c.top_k, derive_seed(seed, self.name))
        return own.override(**settings)

    def rollout(
        self, items: Sequence, n: int, seed: int, template: Template | None = None, **settings: float | None
    ) -> Rollout:
        """Sample ``n`` completions for each item; ``template`` and ``settings`` of ``Sampling`` override its own."""
        prompts = self.prompts(items, template)
        completions = self.sample(prompts, self.sampling(n, seed, **settings))
        return Rollout(tuple(prompts), tuple(tuple(group) for group in completions))

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Sample completions of all prompts; each rank samples those of the prompts that it is dealt.

        Raises:
            RuntimeError: Ranks have different prompts.
        """
        costs = self._costs(prompts, sampling)
        return spread(costs, lambda own: self.engine.generate(self.vlm, [prompts[n] for n in own], sampling))

    def begin_sample(self, prompts: Sequence[Prompt], sampling: Sampling) -> Callable[[], list[list[Completion]]]:
        """Begin to do as ``sample``, from the policy as it is now, while it goes on to learn.

        Returns:
            A function that waits for the completions; every rank calls it.

        Raises:
            RuntimeError: Ranks have different prompts.
        """
        costs = self._costs(prompts, sampling)
        return begin_spread(costs, lambda own: self.engine.begin(self.vlm, [prompts[n] for n in own], sampling))

    def _costs(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[int]:
        """What each prompt may take, the same prompts on all ranks."""
        check_alike("prompts", [prompt.key for prompt in prompts])
        return [self.most_tokens(prompt, sampling) for prompt in prompts]

    def most_tokens(self, prompt: Prompt, sampling: Sampling) -> int:
        """Tokens of a prompt, images expanded, and of all its completions if each is as long as it may be."""
        return self.vlm.prompt_tokens(prompt) + sampling.n * sampling.max_new_tokens

    def why_not_asked(self, item: Any, template: Template | None = None) -> str | None:
        """Why there is no room in the context for an item's prompt and a completion; None where there is."""
        (prompt,) = self.prompts([item], template)
        return self.vlm.why_too_long(prompt, self.config.max_new_tokens)

    def collate(self, rollout: Rollout) -> GroupBatch:
        """The rollout as tensors where the policy is."""
        tokens = [self.vlm.prompt_tokens(prompt) for prompt in rollout.prompts]
        return GroupBatch.collate(rollout, tokens, self.vlm.device)

    @abstractmethod
    def prompts(self, items: Sequence, template: Template | None = None) -> list[Prompt]:
        """One prompt per item; ``template`` overrides the setting."""

    @abstractmethod
    def judge(self, items: Sequence, rollout: Rollout, seed: int) -> Judgement:
        """Reward every completion, (N, G)."""
