"""What one training step was given, sampled, graded and computed, watched while it happens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from visplay.data.files import json_number
from visplay.modules.learner.grpo import StepResult
from visplay.modules.training import GRPOModule
from visplay.provenance import describe_software
from visplay.types import (
    Completion,
    Engine,
    Example,
    Judgement,
    Policy,
    Prompt,
    Record,
    Rollout,
    Sampling,
    UnlabeledImage,
)


class Call(NamedTuple):
    """One call of the rollout engine.

    Args:
        policy: Name of the policy that was sampled from.
        version: Its version.
        sampling: How.
        prompts: The prompts.
        completions: ``sampling.n`` for each.
    """

    policy: str
    version: int
    sampling: Sampling
    prompts: tuple[Prompt, ...]
    completions: tuple[tuple[Completion, ...], ...]


class Grade(NamedTuple):
    """Two answers that were compared, and the outcome, see ``visplay.grading.worker.OUTCOMES``."""

    a: str
    b: str
    outcome: str


@dataclass
class StepTrace:
    """What a step did; what has not happened is empty.

    Args:
        items: Images or examples: those of the step, then those of each refill.
        calls: Of the engine, in their order.
        grades: Comparisons of answers, in their order.
        judged: N·G completions with what was made of them: reward, question, vote, as JSON has it.
        judging: Statistics of the judgement.
        update: Statistics of rollout and update.
        batch: Tensors of the batch before its updates, by the names of ``GroupBatch``.
        after: SHA-256 of every tensor of the policy and its optimizer after the step.
    """

    items: list[tuple[UnlabeledImage | Example, ...]]
    calls: list[Call] = field(default_factory=list)
    grades: list[Grade] = field(default_factory=list)
    judged: list[dict[str, Any]] = field(default_factory=list)
    judging: dict[str, float | str] = field(default_factory=dict)
    update: dict[str, float | str] = field(default_factory=dict)
    batch: dict[str, Tensor] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)

    def note_judgement(self, rollout: Rollout, judgement: Judgement) -> None:
        """Note the rewards and how they came about."""
        names = [(prompt.key, g) for prompt in rollout.prompts for g in range(judgement.rewards.shape[1])]
        rewards = judgement.rewards.flatten().tolist()
        records: Sequence[Record | None] = judgement.records or [None] * len(rewards)
        self.judged = [
            {"key": key, "completion": g, "reward": reward} | ({} if record is None else _json_record(record))
            for (key, g), reward, record in zip(names, rewards, records, strict=True)
        ]
        self.judging = {name: json_number(value) for name, value in judgement.statistics.items()}

    def note_step(self, result: StepResult, after: Mapping[str, Tensor]) -> None:
        """Note what a step that ended resulted in, and the tensors that it has changed."""
        self.note_judgement(result.rollout, result.judgement)
        self.update = {name: json_number(value) for name, value in result.statistics.items()}
        self.after = {name: hash_tensor(tensor) for name, tensor in after.items()}


@contextmanager
def tracing(module: GRPOModule, items: Sequence[UnlabeledImage | Example]) -> Iterator[StepTrace]:
    """Watch what a step of the role that learns asks of its engine, grader and learner.

    Args:
        module: Whose step.
        items: What the step is given.
    """
    trace = StepTrace([tuple(items)])
    engine, refill, grader, learner = module.role.engine, module.refill, module.role.grader, module.role.learner

    def draw(count: int) -> Sequence:
        assert refill is not None
        trace.items.append(tuple(refill(count)))
        return trace.items[-1]

    module.attach_engine(_TracedEngine(engine, trace.calls))
    module.refill = None if refill is None else draw
    grader.on_graded = lambda *grade: trace.grades.append(Grade(*grade))
    learner.on_batch = lambda batch: trace.batch.update(batch.tensors())
    try:
        yield trace
    finally:
        module.attach_engine(engine)
        module.refill, grader.on_graded, learner.on_batch = refill, None, None


class _TracedEngine(Engine):
    """Hands everything on to an engine, and keeps its calls."""

    def __init__(self, engine: Engine, calls: list[Call]) -> None:
        self.engine = engine
        self.calls = calls

    def generate(self, policy: Policy, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        completions = self.engine.generate(policy, prompts, sampling)
        groups = tuple(tuple(group) for group in completions)
        self.calls.append(Call(policy.name, policy.version, sampling, tuple(prompts), groups))
        return completions

    def load(self, policy: Policy) -> None:
        self.engine.load(policy)

    def sleep(self) -> None:
        self.engine.sleep()

    def wake(self) -> None:
        self.engine.wake()

    def close(self) -> None:
        self.engine.close()


def describe_process(device: torch.device | None = None) -> dict[str, Any]:
    """Versions and settings that numbers depend on."""
    found = describe_software() | {"threads": torch.get_num_threads()}
    if device is None:
        return found
    return found | {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type}


def hash_tensor(tensor: Tensor) -> str:
    """SHA-256 of the bits of a tensor."""
    return hashlib.sha256(bits(tensor).numpy().data).hexdigest()


def bits(tensor: Tensor) -> Tensor:
    """The bits of a tensor as bytes, on the CPU."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def _json_record(record: Record) -> dict[str, Any]:
    vote = None if record.vote is None else asdict(record.vote)
    return {"problem": record.problem, "gold": record.gold, "vote": vote}
