"""Copies of what policies train, in CPU memory, to go back to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from visplay.modules.policy.vlm import VLM
from visplay.modules.policy.weights.placement import CPU


def copy_weights(policy: VLM) -> list[Tensor]:
    """What the policy trains, in CPU memory."""
    return [weight.detach().to(CPU, copy=True) for weight in policy.trained_weights()]


def put_back(policy: VLM, weights: Sequence[Tensor]) -> None:
    """Give a policy weights back that ``copy_weights`` has copied; its version moves on, as engines have to load it."""
    for weight, kept in zip(policy.trained_weights(), weights, strict=True):
        weight.detach().copy_(kept)
    policy.version += 1


class KeptWeights:
    """The weights of several policies as they were together; a policy that roles share is kept once.

    Attributes:
        weights: Of each policy, by its name; empty if nothing is kept. They are never written to.
    """

    def __init__(self) -> None:
        self.weights: dict[str, list[Tensor]] = {}

    def keep(self, policies: Iterable[VLM]) -> None:
        """Copy policies as they are now, in place of what was kept.

        Raises:
            ValueError: The weights of one are sharded over ranks, which have no whole copies.
        """
        named = {policy.name: policy for policy in policies}
        for name, policy in named.items():
            if policy.sharded and policy.adapters is None:
                raise ValueError(
                    f"self_play.advance: copies of the whole weights of {name!r} are needed to go back to, and 'fsdp2' "
                    "shards them; give otherwise: stop, trainer.strategy: ddp, or vlm.tuning.lora"
                )
        self.weights = {}  # let them go before there are others
        self.weights = {name: copy_weights(policy) for name, policy in named.items()}

    def put_back(self, policies: Iterable[VLM]) -> None:
        """Give the policies their weights back.

        Raises:
            ValueError: Nothing is kept.
        """
        if not self.weights:
            raise ValueError(
                "self_play.advance: no weights to go back to: the checkpoint that the run was continued from was "
                "written without this rule"
            )
        named = {policy.name: policy for policy in policies}
        for name, weights in self.weights.items():
            put_back(named[name], weights)

    def state_dict(self) -> Mapping[str, list[Tensor]]:
        """The weights; they are no copies."""
        return dict(self.weights)

    def load_state_dict(self, state_dict: Mapping[str, list[Tensor]]) -> None:
        """Undo ``state_dict``."""
        self.weights = dict(state_dict)
