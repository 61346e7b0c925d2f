"""Seconds and network bytes of every stage of a run, by its settings, on a number of GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from visplay.planning.activations import FLOAT
from visplay.planning.costs.cost_model import Work
from visplay.planning.costs.machines import Machine
from visplay.planning.costs.stage_work import (
    EngineMemory,
    Learned,
    Sampled,
    divided,
    load_work,
    sampling_work,
    update_work,
)
from visplay.planning.costs.traffic import (
    completion_bytes,
    ddp_update_bytes,
    fsdp_update_bytes,
    gathered,
    tensor_parallel_bytes,
)
from visplay.planning.memory import Training
from visplay.planning.run_plan import Plan
from visplay.planning.settings import RolePlan, VLLMPlan

VLLM_BLOCK_TOKENS = 16
"""Tokens of a block of vLLM's cache on a GPU."""


@dataclass(frozen=True)
class Lengths:
    """Mean lengths that a run is planned for.

    Args:
        image_tokens: Tokens of an image.
        completion_tokens: Of a completion, by role: those that it learns from, and votes by the Reasoner's.
    """

    image_tokens: int
    completion_tokens: Mapping[str, int]


@dataclass(frozen=True)
class Stage:
    """What a stage takes in one step.

    Args:
        seconds: Until the slowest rank is done.
        network_bytes: That one rank sends.
    """

    seconds: float = 0.0
    network_bytes: float = 0.0

    def __add__(self, other: Stage) -> Stage:
        """One after the other."""
        return Stage(self.seconds + other.seconds, self.network_bytes + other.network_bytes)

    def times(self, factor: float) -> Stage:
        """The same again and again."""
        return Stage(self.seconds * factor, self.network_bytes * factor)


Step = dict[str, Stage]
"""The stages of a step by name: "rollout", "votes", "descriptions", "load" and "update"."""


class StepCosts:
    """The costs of a run's steps.

    Args:
        plan: Its plan, on as many devices as its settings say.
        machine: Of what kind they are.
        lengths: Of its images and completions.

    Raises:
        ValueError: Ranks cannot be divided into engines.
    """

    def __init__(self, plan: Plan, machine: Machine, lengths: Lengths) -> None:
        self.plan, self.settings, self.cache = plan, plan.settings, plan.cache
        self.machine, self.lengths = machine, lengths
        self.gpus, engine = plan.settings.device.count, plan.settings.engine
        self.ranks_per_engine = engine.settings.tensor_parallel_size if isinstance(engine, VLLMPlan) else 1
        if self.gpus % self.ranks_per_engine:
            raise ValueError(f"tensor_parallel_size: {self.ranks_per_engine} must divide the {self.gpus} ranks")

    def step(self, role: RolePlan) -> Step:
        """One step of a role: rollout, votes or answers from descriptions, loads into the engine, and updates."""
        c, s = role.grpo, self.settings
        stages = {"rollout": self._sample(role, c.prompts_per_step, 1, c.group_size)}
        load = self._load(idle=False)
        if role.name == "questioner" and s.voting is not None:
            stages["votes"] = self._sample(self._voter(role), c.prompts_per_step, c.group_size, s.voting.votes)
            load += self._load(idle=True) if s.policies > 1 else Stage()
        if role.describes:
            stages["descriptions"] = self._answer_blind(role)
        stages["load"] = load
        stages["update"] = self._update(role)
        return stages

    def curation(self, images: int) -> Step:
        """A data set from so many images: questions and votes, and a load for each of them and each batch of images.

        Raises:
            ValueError: None is generated.
        """
        c, s = self.settings.curation, self.settings
        if c is None or s.voting is None:
            raise ValueError("curation: these settings generate no data set")
        questioner = next(role for role in s.roles if role.name == "questioner")
        votes, batches = (c.voting or s.voting).votes, images / c.images_per_batch
        of_batch = {
            "questions": self._sample(questioner, c.images_per_batch, 1, c.questions_per_image),
            "votes": self._sample(self._voter(questioner), c.images_per_batch, c.questions_per_image, votes),
            "load": self._load(idle=True) + self._load(idle=True) if s.policies > 1 else Stage(),
        }
        if s.second_votes:
            voter = self._voter(questioner)
            of_batch["second votes"] = self._sample(voter, c.images_per_batch, c.questions_per_image, s.second_votes)
            of_batch["load"] += self._load(idle=True)
        return {name: each.times(batches) for name, each in of_batch.items()}

    def _network_seconds(self, sent: float) -> float:
        """Seconds in which every rank sends so many bytes around a ring."""
        return sent / self.machine.link_bytes(self.settings.device.nodes)

    def _voter(self, questioner: RolePlan) -> RolePlan:
        """The Reasoner; a frozen one has no plan of its own, and the Questioner's stands in."""
        return next((role for role in self.settings.roles if role.name == "reasoner"), questioner)

    def _patches(self) -> int:
        image = self.settings.image
        if not image.most_tokens:
            return 0
        patches = image.most_patches(self.settings.shape.patches_per_token)
        return round(self.lengths.image_tokens * patches / image.most_tokens)

    def _sample(self, role: RolePlan, images: int, questions: int, samples: int) -> Stage:
        """Completions of a role about images, each with as many questions."""
        shared, own = self.lengths.image_tokens + role.template_tokens, role.question_tokens
        if questions == 1:
            shared, own = shared + own, 0
        return self._sample_dealt(role, images, self._patches(), questions, shared, own, samples)

    def _answer_blind(self, role: RolePlan) -> Stage:
        """One answer from each description of a step, which is taken to be as long as a completion."""
        prompt = role.template_tokens + role.question_tokens + self.lengths.completion_tokens[role.name]
        return self._sample_dealt(role, role.grpo.prompts_per_step * role.grpo.group_size, 0, 1, prompt, 0, 1)

    def _sample_dealt(
        self, role: RolePlan, images: int, patches: int, questions: int, shared: float, own: float, samples: int
    ) -> Stage:
        """Completions of prompts, as many about each image, dealt to all engines."""
        s, engine, gpus = self.settings, self.settings.engine, self.gpus
        if engine is None or self.cache is None:
            return Stage()
        tokens, ranks = self.lengths.completion_tokens[role.name], self.ranks_per_engine
        slots = self.cache.total // int(self.cache.token_bytes * (shared + own + tokens))
        if isinstance(engine, VLLMPlan):
            weight, most, block = engine.weight_bytes, engine.settings.max_sequences, VLLM_BLOCK_TOKENS
        else:
            weight, most, block = s.precision.compute, engine.max_sequences, 1
        sampled = Sampled(
            images, patches, images * questions, shared, own, samples, tokens, max(samples, min(most, slots))
        )
        of_one = divided(sampled, gpus // ranks)
        work = sampling_work(s.shape, of_one, EngineMemory(weight, ranks * self.cache.token_bytes, block))
        work = Work(work.operations / ranks, work.moved_bytes / ranks, work.layers)
        read = of_one.images * shared + of_one.prompts * (own + samples * tokens)
        sent = completion_bytes(images * questions * samples, tokens, gpus)
        sent += tensor_parallel_bytes(s.shape, read, weight, ranks)
        return Stage(self.machine.sampling.seconds(work) + self._network_seconds(sent), sent)

    def _load(self, *, idle: bool) -> Stage:
        """Weights of one policy into the engine, gathered tensor by tensor where they are cut, brought if idle."""
        s, machine = self.settings, self.machine
        if s.engine is None:
            return Stage()
        seconds = sent = 0.0
        if idle and s.offloads_idle:
            seconds += FLOAT * s.shape.weights / machine.host_bytes
        if s.device.shards > 1:
            sent = gathered(FLOAT * s.shape.weights, s.device.shards)
        if isinstance(s.engine, VLLMPlan):
            seconds += machine.loading.seconds(load_work(s.shape, s.engine.weight_bytes))
        return Stage(seconds + self._network_seconds(sent), sent)

    def _update(self, role: RolePlan) -> Stage:
        """Scores and updates; gradients are summed after the passes (DDP), or weights gathered beside them (FSDP2)."""
        s, c, gpus, machine = self.settings, role.grpo, self.gpus, self.machine
        updates = ceil(c.prompts_per_step / role.prompts_per_update)
        learned = Learned(
            prompts=updates * ceil(min(role.prompts_per_update, c.prompts_per_step) / gpus),
            patches=self._patches(),
            prompt_tokens=self.lengths.image_tokens + role.template_tokens + role.question_tokens,
            group=c.group_size,
            tokens=self.lengths.completion_tokens[role.name],
            updates=updates,
            scores=role.reference + (updates > 1),
            tokens_per_micro_batch=c.tokens_per_micro_batch,
        )
        training = Training(s.precision, s.checkpointed, frozen=s.frozen)
        seconds = machine.training.seconds(
            update_work(s.shape, learned, training, 1 if s.shape.adapters else s.device.shards)
        )
        if s.offloads_reference:  # to the GPU, and back
            seconds += 2 * FLOAT * s.reference_weights(role) / machine.host_bytes
        if s.device.shards > 1:
            sent = fsdp_update_bytes(s.shape, s.trained_weights, learned, gpus)
            return Stage(max(seconds, self._network_seconds(sent)), sent)
        sent = ddp_update_bytes(s.trained_weights, updates, gpus)
        return Stage(seconds + self._network_seconds(sent), sent)
