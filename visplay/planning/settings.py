"""What a plan is made from: the settings of a run, taken from its configuration, and the device it is meant for."""

from __future__ import annotations

from dataclasses import dataclass

from visplay.callbacks.curation.curation import Curation
from visplay.callbacks.engines.vllm_engine import EngineSettings
from visplay.modules.families.qwen2_5_vl import most_scaled_tokens
from visplay.modules.learner.grpo_config import GRPOConfig
from visplay.modules.voting import Voting
from visplay.planning.activations import FLOAT, Precision
from visplay.planning.memory import Residents, Shape, Training, trained_weights


@dataclass(frozen=True)
class ImageSize:
    """How many tokens an image becomes.

    Args:
        least_pixels: A smaller image is scaled up to this area.
        most_pixels: A larger image is scaled down to this area.
        token_pixels: Area of one token.
        tiled: Tokens and patches of the largest image of a family that cuts images into tiles; None elsewhere.
    """

    least_pixels: int
    most_pixels: int
    token_pixels: int
    tiled: tuple[int, int] | None = None

    @property
    def least_tokens(self) -> int:
        """Tokens of the smallest image."""
        return max(1, self.least_pixels // self.token_pixels) if self.most_tokens else 0

    @property
    def most_tokens(self) -> int:
        """Tokens of the largest image."""
        if self.tiled:
            return self.tiled[0]
        return most_scaled_tokens(self.least_pixels, self.most_pixels, self.token_pixels)

    def most_patches(self, patches_per_token: int) -> int:
        """Patches of the largest image."""
        return self.tiled[1] if self.tiled else patches_per_token * self.most_tokens


NO_IMAGES = ImageSize(0, 0, 1, tiled=(0, 0))
"""Of a language model."""


@dataclass(frozen=True)
class RolePlan:
    """A role that learns.

    Args:
        name: "questioner" or "reasoner".
        grpo: Its settings.
        template_tokens: Tokens of its prompt without the image and without a question.
        question_tokens: Most tokens of the question that is put into its prompt; 0 for none.
        describes: Whether each completion has a description, from which alone there is one more answer.
    """

    name: str
    grpo: GRPOConfig
    template_tokens: int
    question_tokens: int = 0
    describes: bool = False

    @property
    def prompts_per_update(self) -> int:
        """Prompts of one step of the optimizer."""
        return self.grpo.prompts_per_update or self.grpo.prompts_per_step

    @property
    def reference(self) -> bool:
        """Whether the KL is measured from a frozen policy."""
        return self.grpo.kl_weight > 0 and self.grpo.kl_reference != "old"


@dataclass(frozen=True)
class VLLMPlan:
    """vLLM in the training process.

    Args:
        settings: Of the engine.
        weight_bytes: Bytes of a weight in it.
        sleeps: Whether it gives its memory back during an update.
    """

    settings: EngineSettings
    weight_bytes: int = 2
    sleeps: bool = True


@dataclass(frozen=True)
class TransformersPlan:
    """Sampling with the policies' own weights, at most ``max_sequences`` at a time."""

    max_sequences: int


@dataclass(frozen=True)
class Device:
    """One device of those that train.

    Args:
        kind: "cuda" or "cpu".
        memory: Its bytes.
        process: Bytes that the process takes without a model: libraries, or the context of a GPU.
        count: Devices in all.
        nodes: Machines that they are in.
        sharded: Whether weights, gradients and optimizer states are cut over them (FSDP), or each has them whole.
        disk: Free bytes where the run is written; None if unknown.
        host: Bytes of CPU memory next to a GPU; None if unknown.
    """

    kind: str
    memory: int
    process: int
    count: int = 1
    nodes: int = 1
    sharded: bool = False
    disk: int | None = None
    host: int | None = None

    @property
    def shards(self) -> int:
        """Devices that have one copy of the weights together."""
        return self.count if self.sharded else 1


@dataclass(frozen=True)
class Settings:
    """All that a plan is made from.

    Args:
        path: Of the model.
        shape: Its sizes.
        image: Tokens of images.
        context_tokens: Most tokens of a sequence.
        roles: Those that learn, in their turns.
        policies: Those of both roles, or of a role and its frozen Reasoner; 1 where one policy is all.
        precision: What is computed in.
        checkpointed: Gradient checkpointing.
        frozen: Parts that do not learn.
        engine: The rollout engine; None where it runs on other devices.
        voting: How questions are voted on; None where nobody votes.
        curation: Of the data set in between; None where none is generated.
        iterations: Of the loop.
        kept_checkpoints: Checkpoints of phases that stay on the disk; None keeps all.
        device: One of those that train.
        offload: Whether whole policies that do not learn are in CPU memory, next to a GPU.
        why_padded: Why groups are not packed into one row; None where they are.
        own_judge: Whether the idle policy is a frozen Reasoner's whole model, whatever the role learns into.
        step_checkpoints: Checkpoints within a phase that are kept; 0 where none are written.
        health_copies: Copies of what a policy trains that ``Health`` has in CPU memory at once.
        with_adapters: The sizes with the adapters of ``configs/lora.yaml``; None where there are adapters already.
        teacher: Whether there is a ``Teacher``, an idle policy more.
    """

    path: str
    shape: Shape
    image: ImageSize
    context_tokens: int
    roles: tuple[RolePlan, ...]
    policies: int
    precision: Precision
    checkpointed: bool
    frozen: frozenset[str]
    engine: VLLMPlan | TransformersPlan | None
    voting: Voting | None
    curation: Curation | None
    iterations: int
    kept_checkpoints: int | None
    device: Device
    offload: bool = True
    own_judge: bool = False
    why_padded: str | None = None
    step_checkpoints: int = 0
    health_copies: int = 0
    with_adapters: Shape | None = None
    teacher: bool = False

    @property
    def second_votes(self) -> int:
        """Answers of a second vote on each question of a data set; the Questioner's own costs nothing."""
        view = None if self.curation is None else self.curation.second_view
        if view is None or self.voting is None or view.voter == "questioner":
            return 0
        return (view.voting or self.voting).votes

    @property
    def second_voter_weights(self) -> int:
        """Number of weights of a base that votes a second time, in CPU memory beside the policies; shards apart."""
        view = None if self.curation is None else self.curation.second_view
        alone = view is not None and view.voter == "base" and not self.shape.adapters and self.device.shards == 1
        return self.shape.weights if alone else 0

    @property
    def offloads_idle(self) -> bool:
        """Whether the idle policy is in CPU memory; an adapter stays on its base."""
        return self._offloads and (self.own_judge or not self.shape.adapters)

    @property
    def offloads_reference(self) -> bool:
        """Whether references are in CPU memory."""
        return self._offloads and not self.shape.adapters

    @property
    def _offloads(self) -> bool:
        """Whether whole policies are in CPU memory; those that are cut over devices stay there."""
        return self.offload and self.device.kind == "cuda" and self.device.shards == 1

    @property
    def policy_weights(self) -> int:
        """Number of weights that a policy has for itself."""
        return self.shape.adapter_weights or self.shape.weights

    @property
    def idle_weights(self) -> int:
        """Number of weights of the policies that do not learn."""
        others = (self.policies - 1) * (self.shape.weights if self.own_judge else self.policy_weights)
        return others + self.teacher * self.policy_weights

    def reference_weights(self, role: RolePlan) -> int:
        """Number of weights of a role's frozen reference; the base of an adapter is there anyway."""
        alone = role.reference and not (self.shape.adapters and role.grpo.kl_reference == "base")
        return self.policy_weights if alone else 0

    @property
    def trained_weights(self) -> int:
        """Number of weights of a policy that learn."""
        return trained_weights(self.shape, Training(frozen=self.frozen))

    @property
    def health_bytes(self) -> int:
        """Bytes of the copies that ``Health`` has."""
        return FLOAT * self.health_copies * self.trained_weights

    def longest_prompt(self, role: RolePlan) -> int:
        """Tokens of a role's prompt with the largest image, without a question."""
        return self.image.most_tokens + role.template_tokens

    def residents(self, role: RolePlan | None = None, *, samples_idle: bool = False, scores: bool = False) -> Residents:
        """What is on the device; an offloaded policy comes while it is sampled from, and a reference while it scores.

        The engine of vLLM has a copy of its own, to which weights go one after another.
        """
        brought = samples_idle and isinstance(self.engine, TransformersPlan)
        idle = self.idle_weights if brought or not self.offloads_idle else 0
        there = role is not None and (scores or not self.offloads_reference)
        reference = self.reference_weights(role) if role is not None and there else 0
        return Residents(self.device.process, idle, reference, self.device.shards)
