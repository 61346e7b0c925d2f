"""What a plan is made from: the settings of a run, taken from its configuration, and the device it is meant for."""

from __future__ import annotations

from dataclasses import dataclass

from visplay.callbacks.curation import Curation
from visplay.callbacks.engines.vllm_engine import EngineSettings
from visplay.modules.learner.grpo_config import GRPOConfig
from visplay.modules.voting import Voting
from visplay.planning.activations import Precision
from visplay.planning.memory import Shape


@dataclass(frozen=True)
class Image:
    """How many tokens an image becomes.

    Args:
        least_pixels: A smaller image is scaled up to this area.
        most_pixels: A larger image is scaled down to this area.
        token_pixels: Area of one token.
        tiled: Tokens and patches of the largest image of a family that cuts images into tiles, where no area says
            them; None elsewhere.
    """

    least_pixels: int
    most_pixels: int
    token_pixels: int
    tiled: tuple[int, int] | None = None

    @property
    def least_tokens(self) -> int:
        """Tokens of the smallest image."""
        return max(1, self.least_pixels // self.token_pixels)

    @property
    def most_tokens(self) -> int:
        """Tokens of the largest image."""
        return self.tiled[0] if self.tiled else max(1, self.most_pixels // self.token_pixels)

    def most_patches(self, patches_per_token: int) -> int:
        """Patches of the largest image."""
        return self.tiled[1] if self.tiled else patches_per_token * self.most_tokens


@dataclass(frozen=True)
class RolePlan:
    """A role that learns.

    Args:
        name: "questioner" or "reasoner".
        grpo: Its settings.
        template_tokens: Tokens of its prompt without the image and without a question.
        asks_of: Longest text that is put into its prompt, in tokens: a question, or nothing.
    """

    name: str
    grpo: GRPOConfig
    template_tokens: int
    asks_of: int = 0

    @property
    def prompts_per_update(self) -> int:
        """Prompts of one step of the optimizer."""
        return self.grpo.prompts_per_update or self.grpo.prompts_per_step

    @property
    def reference(self) -> bool:
        """Whether a frozen policy measures the KL divergence."""
        return self.grpo.kl_weight > 0 and self.grpo.kl_reference != "old"


@dataclass(frozen=True)
class EnginePlan:
    """The rollout engine.

    Args:
        kind: "vllm" in the training process, "server" elsewhere, or "transformers".
        settings: Of vLLM in the training process.
        weight_bytes: Bytes of a weight in it.
        sleeps: Whether it gives its memory back during an update.
        max_sequences: Most sequences side by side.
    """

    kind: str
    settings: EngineSettings = EngineSettings()
    weight_bytes: int = 2
    sleeps: bool = True
    max_sequences: int = 256


@dataclass(frozen=True)
class Device:
    """One device of those that train.

    Args:
        kind: "cuda" or "cpu".
        memory: Its bytes.
        process: Bytes that the process takes without a model: libraries, or the context of a GPU.
        count: Devices in all.
        sharded: Whether weights, gradients and optimizer states are cut over them (FSDP), or each holds them whole.
        disk: Free bytes where the run is written; None if unknown.
        host: Bytes of the host's memory beside a GPU; None if unknown.
    """

    kind: str
    memory: int
    process: int
    count: int = 1
    sharded: bool = False
    disk: int | None = None
    host: int | None = None

    @property
    def shards(self) -> int:
        """Devices that hold one copy of the weights together."""
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
        policies: Those of both roles, or of a role and its jury; 1 where one policy is all.
        precision: What is computed in.
        checkpointed: Gradient checkpointing.
        frozen: Parts that do not learn.
        engine: The rollout engine.
        voting: How questions are voted on; None without a jury.
        curation: Of the data set in between; None where none is generated.
        iterations: Of the loop.
        kept_checkpoints: Checkpoints that stay on the disk; None keeps all.
        device: One of those that train.
        offload: Whether whole policies that do not learn lie in the host's memory, beside a GPU.
        own_jury: Whether the idle policy is a jury's whole model, whatever the role learns into.
        low_rank: The sizes with the adapters of ``configs/lora.yaml``; None where there are adapters already.
    """

    path: str
    shape: Shape
    image: Image
    context_tokens: int
    roles: tuple[RolePlan, ...]
    policies: int
    precision: Precision
    checkpointed: bool
    frozen: frozenset[str]
    engine: EnginePlan
    voting: Voting | None
    curation: Curation | None
    iterations: int
    kept_checkpoints: int | None
    device: Device
    offload: bool = True
    own_jury: bool = False
    low_rank: Shape | None = None

    @property
    def reference(self) -> bool:
        """Whether any role keeps a frozen reference."""
        return any(role.reference for role in self.roles)

    @property
    def hosts_idle(self) -> bool:
        """Whether the idle policy lies in the host's memory; an adapter stays on its base."""
        return self.offload and self.device.kind == "cuda" and (self.own_jury or not self.shape.adapters)

    @property
    def hosts_reference(self) -> bool:
        """Whether references lie there."""
        return self.offload and self.device.kind == "cuda" and not self.shape.adapters

    @property
    def policy_weights(self) -> int:
        """Number of weights that a policy has for itself."""
        return self.shape.adapter_weights or self.shape.weights

    @property
    def idle_weights(self) -> int:
        """Number of weights of the policies that do not learn."""
        return (self.policies - 1) * (self.shape.weights if self.own_jury else self.policy_weights)

    def reference_weights(self, role: RolePlan) -> int:
        """Number of weights of a role's frozen reference; the base of an adapter is there anyway."""
        alone = role.reference and not (self.shape.adapters and role.grpo.kl_reference == "base")
        return self.policy_weights if alone else 0
