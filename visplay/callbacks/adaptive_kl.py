"""The KL weight of each role, adapted so that the divergence from its reference stays near a target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from typing import Any

from lightning import Callback, Trainer

from visplay.callbacks.records.recorder import Recorder
from visplay.functional.grpo.kl_control import adapt_kl_weight
from visplay.modules.training import GRPOModule


class AdaptiveKL(Callback):
    """Adapts ``grpo.kl_weight`` of the role that learns after each of its steps, see ``adapt_kl_weight``.

    The configured weights are what it begins with; a checkpoint keeps the present ones, and phases go on with them.

    Args:
        target: The KL divergence from ``grpo.kl_reference`` to hold, in nats per token.
        rate: How fast.

    Attributes:
        weights: The present weight of each role, by its name.

    Raises:
        ValueError: ``target`` or ``rate`` is not positive.
    """

    def __init__(self, target: float = 0.02, rate: float = 0.1) -> None:
        for name, value in (("target", target), ("rate", rate)):
            if not value > 0:
                raise ValueError(f"{name}: must be positive, got {value}")
        self.target = target
        self.rate = rate
        self.weights: dict[str, float] = {}

    def setup(self, trainer: Trainer, pl_module: GRPOModule, stage: str) -> None:
        """Reject a run of which steps are recorded.

        Raises:
            ValueError: A step would be done again with the configured weight.
        """
        if stage == "fit" and any(isinstance(c, Recorder) and c.steps for c in trainer.callbacks):
            raise ValueError("record: a step is recorded without its adapted KL weight; leave AdaptiveKL out, or steps")

    def on_train_start(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Begin with the configured weights, or those of the checkpoint.

        Raises:
            ValueError: A role has no reference to stay near.
        """
        for name, role in pl_module.roles.items():
            if not role.config.kl_weight or role.config.kl_reference == "old":
                raise ValueError(
                    f"{name}.grpo: kl_weight={role.config.kl_weight} and kl_reference={role.config.kl_reference!r} "
                    "leave no KL divergence to adapt a weight by; give a positive weight, and phase_start or base"
                )
            self._weigh(pl_module, name, self.weights.get(name, role.config.kl_weight))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: GRPOModule, outputs: Any, batch: Sequence, batch_idx: int
    ) -> None:
        """Adapt the weight by the step's KL divergence; a step without an update has none."""
        kl = pl_module.result.statistics.get("kl") if batch and pl_module.result is not None else None
        if kl is not None and isfinite(kl):
            name = pl_module.role.name
            self._weigh(pl_module, name, adapt_kl_weight(self.weights[name], kl, self.target, self.rate))
            pl_module.log_role({"kl_weight": self.weights[name]})

    def state_dict(self) -> dict[str, Any]:
        """The present weights."""
        return {"weights": dict(self.weights)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Undo ``state_dict``."""
        self.weights = dict(state_dict["weights"])

    def _weigh(self, module: GRPOModule, name: str, weight: float) -> None:
        learner = module.roles[name].learner
        self.weights[name] = weight
        learner.config = replace(learner.config, kl_weight=weight)
