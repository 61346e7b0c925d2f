"""What a training step starts from besides its items: weights, optimizer, reference, learner and random numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from visplay.modules.questioner import Questioner
from visplay.modules.training import GRPOModule


@dataclass(frozen=True)
class StepState:
    """The state of the role that learns.

    Args:
        tensors: By names that begin with "policy.", "optimizer.", "reference." or "random."; they are no copies.
        facts: The rest, as JSON has it.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    @classmethod
    def take(cls, module: GRPOModule, optimizer: Optimizer, scaler: GradScaler | None) -> StepState:
        """The state as it is now.

        Args:
            module: In the phase of the role that learns.
            optimizer: The role's own, not what a trainer wraps it in.
            scaler: Of losses in float16; None in every other precision.
        """
        role, learner = module.role, module.role.learner.state_dict()
        kept = learner.pop("reference") is not None
        sections = {
            "policy": _distinct(role.vlm),
            "optimizer": optimizer_tensors(optimizer),
            "reference": _distinct(role.learner.reference if kept else None),
            "random": _random_states(),
        }
        tensors = {f"{section}.{name}": t.detach() for section, state in sections.items() for name, t in state.items()}
        groups = [{n: v for n, v in group.items() if n != "params"} for group in optimizer.param_groups]
        facts = {
            "phase": asdict(module.phase),
            "version": role.vlm.version,
            "learner": learner,
            "param_groups": groups,
            "remembered": list(role.remembered) if isinstance(role, Questioner) else [],
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        return cls(tensors, facts)

    def restore(self, module: GRPOModule, optimizer: Optimizer, scaler: GradScaler | None) -> None:
        """Bring a module whose models are loaded, its phase set, and its optimizer to this state.

        Raises:
            ValueError: The weights are not those of the configured model.
        """
        role, facts = module.role, self.facts
        _copy(self._section("policy"), role.vlm, "policy")
        role.vlm.version = facts["version"]
        role.learner.load_state_dict(facts["learner"] | {"reference": None})
        role.learner.begin_phase(role.vlm, optimizer, offload=True, continued=True)
        if kept := self._section("reference"):
            _copy(kept, role.learner.reference, "reference")
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in self._section("optimizer").items():
            index, _, what = name.partition(".")
            state.setdefault(int(index), {})[what] = tensor
        now = optimizer.state_dict()["param_groups"]
        groups = [group | {"params": own["params"]} for group, own in zip(facts["param_groups"], now, strict=True)]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        if scaler is not None and facts["scaler"] is not None:
            scaler.load_state_dict(facts["scaler"])
        random = self._section("random")
        torch.set_rng_state(random.pop("cpu"))
        if random and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([random[str(index)] for index in range(len(random))])

    def _section(self, section: str) -> dict[str, Tensor]:
        found = (name for name in self.tensors if name.startswith(f"{section}."))
        return {name.partition(".")[2]: self.tensors[name] for name in found}


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """The state of an optimizer by the number of the weight and its own name: ``3.exp_avg``.

    Raises:
        TypeError: A part of it is no tensor.
    """
    named = {f"{n}.{what}": v for n, state in optimizer.state_dict()["state"].items() for what, v in state.items()}
    if other := [name for name, value in named.items() if not isinstance(value, Tensor)]:
        raise TypeError(f"optimizer: a record keeps tensors, and {other[0]!r} is a {type(named[other[0]]).__name__}")
    return named


def policy_tensors(module: GRPOModule, optimizer: Optimizer) -> dict[str, Tensor]:
    """What a step changes: the weights of the policy that learns, and the state of its optimizer."""
    state = {"policy": _distinct(module.role.vlm), "optimizer": optimizer_tensors(optimizer)}
    return {f"{section}.{name}": tensor for section, tensors in state.items() for name, tensor in tensors.items()}


def own_optimizer(module: GRPOModule) -> Optimizer:
    """The optimizer of the role that learns, without what the trainer wraps it in."""
    optimizer: Any = module.active_optimizer()
    return getattr(optimizer, "optimizer", optimizer)


def loss_scaler(trainer: Trainer) -> GradScaler | None:
    """What scales losses in float16; None in every other precision."""
    return getattr(trainer.precision_plugin, "scaler", None)


def _distinct(policy: nn.Module | None) -> dict[str, Tensor]:
    """The state of a policy, of an adapter its own; a tied weight comes once, under its first name."""
    found: dict[tuple[int, torch.Size], tuple[str, Tensor]] = {}
    for name, tensor in ({} if policy is None else policy.state_dict()).items():
        found.setdefault((tensor.data_ptr(), tensor.shape), (name, tensor))
    return dict(found.values())


@torch.no_grad()
def _copy(tensors: Mapping[str, Tensor], policy: nn.Module | None, what: str) -> None:
    """Copy values into a policy that has weights of the same names and shapes."""
    own = _distinct(policy)
    shapes = [{name: tuple(tensor.shape) for name, tensor in each.items()} for each in (tensors, own)]
    if differing := sorted(n for n in own.keys() | tensors.keys() if shapes[0].get(n) != shapes[1].get(n)):
        name = differing[0]
        raise ValueError(
            f"record: {len(differing)} weights of the {what} are not those of the configured model, such as {name!r}: "
            f"{shapes[0].get(name, 'missing')} in the record and {shapes[1].get(name, 'missing')} here"
        )
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


def _random_states() -> dict[str, Tensor]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"cpu": torch.get_rng_state()} | {str(index): state for index, state in enumerate(cuda)}
