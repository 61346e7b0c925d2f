"""One of two ranks: learns on its part of each step; rank 0 also learns on all of it before the ranks meet."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from helpers import Elsewhere
from two_ranks import be_rank
from visplay import ranks
from visplay.callbacks import TransformersRollout
from visplay.clock import Clock
from visplay.functional import token_truncated_weights
from visplay.modules import (
    GRPOConfig,
    LoRA,
    Questioner,
    QuestionFormat,
    Qwen2_5_VL,
    Reasoner,
    SecondView,
    Tuning,
    VisPlay,
    Voting,
)
from visplay.modules.learner.sampling_ahead import NextStep
from visplay.modules.policy.weights.sharding import whole
from visplay.prompts import Template
from visplay.tiny import ANSWER, ASK, BASE
from visplay.tiny.splits import heldout
from visplay.types import UnlabeledImage

CONFIG = GRPOConfig(
    steps=2,
    prompts_per_step=5,
    prompts_per_update=None,
    group_size=4,
    max_new_tokens=24,
    learning_rate=1e-4,
    kl_weight=0.1,
    tokens_per_micro_batch=256,
)
WHOLE = Tuning()


def learn(
    role: Any, items: list, change: Callable[[Any], None] | None = None, refill: Callable | None = None, steps: int = 1
) -> dict[str, Any]:
    """Take steps; what was sampled, how it was judged, the gradients of every update, and the weights at the end."""
    optimizer, policy = role.make_optimizer(), role.vlm
    named = {id(weight): name for name, weight in policy.named_parameters()}
    gradients: list[dict[str, Any]] = []
    step = optimizer.step

    def noting_step() -> None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        gradients.append({named[id(w)]: None if w.grad is None else whole(w.grad).clone() for w in weights})
        step()

    optimizer.step = noting_step
    role.learner.begin_phase(policy, optimizer)
    if change is not None:
        change(policy)
    results = [
        role.learner.step(
            role, items, optimizer, torch.Tensor.backward, seed, refill, next_step=partial(NextStep, items, seed + 1)
        )
        for seed in range(steps)
    ]
    return {
        "sampled": [
            (prompt.key, [(c.token_ids, c.text, c.finished) for c in group])
            for result in results
            for prompt, group in zip(result.rollout.prompts, result.rollout.completions, strict=True)
        ],
        "rewards": [result.judgement.rewards for result in results],
        "judged": [(r.text, r.reward, r.vote) for result in results for r in result.judgement.records],
        "statistics": [result.statistics | result.judgement.statistics for result in results],
        "gradients": gradients,
        "weights": {name: weight.clone() for name, weight in policy.weights()},
        "version": policy.version,
        "skipped": role.learner.skipped,
    }


def load(vlm: Qwen2_5_VL, mesh: DeviceMesh | None, shares_with: Qwen2_5_VL | None = None) -> None:
    """Load a policy, and shard it where there is a mesh."""
    vlm.load(shares_with)
    if mesh is not None:
        vlm.shard(mesh)


def reasoner(
    mesh: DeviceMesh | None, tuning: Tuning = WHOLE, kind: type = Reasoner, again: bool = False, **settings: Any
) -> Reasoner:
    """A Reasoner alone, from the embedded base; its activations may be computed again."""
    vlm = Qwen2_5_VL(str(BASE), tuning=tuning, gradient_checkpointing=again)
    load(vlm, mesh)
    role = kind(replace(CONFIG, **settings), ANSWER)
    role.adopt(vlm, Clock())
    role.attach_engine(TransformersRollout())
    return role


def both(mesh: DeviceMesh | None, shared_policy: bool, tuning: Tuning = WHOLE) -> VisPlay:
    """Both roles, from the embedded base."""
    questioner = Questioner(replace(CONFIG, prompts_per_step=3), ASK, QuestionFormat(kinds=None))
    vlm = Qwen2_5_VL(str(BASE), tuning=tuning)
    module = VisPlay(vlm, questioner, Reasoner(CONFIG, ANSWER, Voting(votes=4)), 0, shared_policy)
    module.attach_engine(TransformersRollout())
    load(module.reasoner.vlm, mesh)
    load(module.questioner.vlm, mesh, module.reasoner.vlm)
    return module


def ask_and_learn(module: VisPlay, view: SecondView | None = None) -> dict[str, Any]:
    """Ask about images and vote as curation does, and let the Questioner learn."""
    images = [UnlabeledImage(e.key, e.image) for e in heldout(3)]
    second = None if view is None else module.second_voter(view)
    proposals = [p for seed in (5, 6) for p in module.propose([images[0], *images], 2, seed, vote_again=second)]
    learned = learn(module.questioner, images)
    return learned | {"proposals": [(p.image.key, p.question, p.vote, p.view) for p in proposals]}


def taught(module: VisPlay) -> VisPlay:
    """The module with a teacher, which its Reasoner has moved away from, that gives all votes."""
    teacher = module.reasoner.vlm.frozen_copy()
    teacher.name = "teacher"
    with torch.no_grad():
        for weight in module.reasoner.vlm.trained_weights():
            weight.add_(0.01)
    module.consult(teacher, rewards=True, labels=True)
    return module


def spoil(policy: Qwen2_5_VL) -> None:
    """Have the log-probabilities that the last rank computes be none, from the second update on."""
    if ranks.rank() == ranks.world_size() - 1:
        logps = policy.logps
        policy.logps = lambda *a, **k: tuple(x * (math.nan if policy.version == 1 else 1) for x in logps(*a, **k))


def moved(role: Reasoner, factor: float = 1.1) -> Reasoner:
    """The role with a policy that is no longer the base."""
    with torch.no_grad():
        for weight in role.vlm.trained_weights():
            weight.mul_(factor)
    return role


def in_two_minds(module: VisPlay) -> VisPlay:
    """The module with a Reasoner that votes otherwise than the base."""
    moved(module.reasoner, 1.02)
    return module


class MostlyBlind(Reasoner):
    """A Reasoner who sees the first image alone."""

    def prompts(self, items, template=None):
        first, *prompts = super().prompts(items, template)
        return [first, *(self.vlm.encode(p.key, Template("Answer by guessing."), None) for p in prompts)]


def scenarios(mesh: DeviceMesh | None) -> dict[str, Any]:
    """What is learned, by scenario; of weights that are sharded over a mesh."""
    items, further = heldout(5), iter(heldout(40)[5:])
    frozen = Tuning(["vision_tower", "projector"])
    several = reasoner(mesh, frozen, prompts_per_update=2, kl_in="reward", entropy_weight=0.01)
    ahead = reasoner(mesh, staleness=1, correction=token_truncated_weights)
    ahead.attach_engine(Elsewhere())
    filtering = reasoner(mesh, filter_zero_variance=True, max_refills=2)
    filtering.weight = lambda items: torch.tensor([1 / (1 + len(item.problem) % 3) for item in items])
    blind = reasoner(mesh, kind=MostlyBlind, again=True, kl_reference="base")
    return {
        "tied embeddings": learn(reasoner(mesh), items, steps=2),
        "frozen vision tower": learn(several, items),
        "refilled": learn(filtering, items, refill=lambda count: [next(further) for _ in range(count)]),
        "sampled ahead": learn(ahead, items, steps=2),
        "one group": learn(reasoner(mesh), items[:1]),
        "from the base": learn(moved(reasoner(mesh, start_from="base")), items[:1]),
        "few images": learn(blind, items),
        "skipped": learn(reasoner(mesh), items, spoil, steps=3),
        "lora": ask_and_learn(both(mesh, False, Tuning(["vision_tower"], LoRA(rank=4, alpha=8)))),
        "shared policy": ask_and_learn(both(mesh, True)),
        "second view": ask_and_learn(in_two_minds(both(mesh, False)), SecondView()),
        "taught": ask_and_learn(taught(both(mesh, False, Tuning(["vision_tower"], LoRA(rank=4, alpha=8))))),
    }


def speak() -> dict[str, Any]:
    """All scenarios, of several ranks also with sharded weights."""
    said = {"whole": scenarios(None), "collectives": collectives()}
    if ranks.world_size() > 1:
        said["sharded"] = scenarios(init_device_mesh("cpu", (ranks.world_size(),)))
    return said


def collectives() -> dict[str, Any]:
    """What each function of ``visplay.ranks`` says."""
    rank, size = ranks.rank(), ranks.world_size()
    weights = [torch.nn.Parameter(torch.zeros(n)) for n in (3, 2, 1)]
    weights[0].grad = torch.full((3,), rank + 1.0)
    if rank == 1:
        weights[1].grad = torch.ones(2)
    ranks.sum_gradients(weights)
    own = torch.full((2,), float(rank))
    ranks.copy_from_first([own])
    ranks.check_alike("items", ["a", "b"])
    differing = ""
    try:
        ranks.check_alike("items", ["a", f"only on {rank}"])
    except RuntimeError as error:
        differing = str(error)
    failed = ""
    try:
        with ranks.failing_together():
            if rank == 1:
                raise ValueError(f"rank {rank} has failed")
    except ValueError as error:
        failed = str(error)
    return {
        "failed": failed,
        "gathered": ranks.gather(rank),
        "first": ranks.from_first(lambda: rank),
        "total": ranks.total({"same": 2, f"rank {rank}": 1}),
        "sum": ranks.sum_over_ranks(torch.ones(2)).tolist(),
        "copied": own.tolist(),
        "differing": differing,
        "gradients": [None if w.grad is None else w.grad.tolist() for w in weights],
        "spread": ranks.spread([1, 5, 1, 1], lambda own: [f"{index} of {rank}" for index in own]),
        "size": size,
    }


if __name__ == "__main__":
    be_rank(speak)
