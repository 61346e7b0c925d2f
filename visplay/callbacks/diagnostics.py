"""Measures that cost forward passes or generations of their own; without this callback none of them is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning import Callback, Trainer
from torch import Tensor

from visplay.callbacks.logging import log_scalars
from visplay.callbacks.self_play import SelfPlay
from visplay.data.draws import Draws
from visplay.data.generated import GeneratedDataset
from visplay.functional.grpo.losses import k3_kl
from visplay.modules.policy.vlm import VLM
from visplay.modules.policy.weights.placement import CPU, move
from visplay.modules.reasoner import Reasoner
from visplay.modules.role import distinct_keys
from visplay.modules.training import GRPOModule, TrainedRole
from visplay.ranks import from_first
from visplay.types import Example, Rollout, derive_seed


class Diagnostics(Callback):
    """Watches how far a policy has moved, and whether its questions need their image.

    Args:
        kl_every_n_steps: Steps between two measurements of the KL divergence of the policy that sampled from the policy
            at the start of the phase and from the base; 0 for none. Costs a copy of the weights each, and a forward
            pass.
        blind_questions: Generated questions that are answered without their image, greedily; 0 for none.
    """

    def __init__(self, kl_every_n_steps: int = 5, blind_questions: int = 128) -> None:
        for name, value in (("kl_every_n_steps", kl_every_n_steps), ("blind_questions", blind_questions)):
            if value < 0:
                raise ValueError(f"{name}: {value} must not be negative")
        self.kl_every_n_steps = kl_every_n_steps
        self.blind_questions = blind_questions
        self._references: dict[str, VLM] = {}
        self._kept: dict[str, Tensor] | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Keep the weights to compare with; answer the phase's new questions without their images.

        A phase that is continued is compared with what it began with, and its questions were answered.
        """
        kept, self._kept = self._kept, None
        self_play = next((c for c in trainer.callbacks if isinstance(c, SelfPlay)), None)
        if self.kl_every_n_steps:
            policy = pl_module.role.vlm
            self._references = {"phase_start": policy.frozen_copy(), "base": policy.base()}
            if pl_module.phase.step and kept is not None:
                self._references["phase_start"].load_state_dict(kept)
            if self_play is not None and self_play.offload:
                for reference in self._references.values():
                    move(reference, CPU)
        new = not pl_module.phase.step and pl_module.role.learns_from == "examples"
        if self.blind_questions and self_play and self_play.dataset and new:
            fraction = self._answer_blind(pl_module, GeneratedDataset(self_play.dataset))
            measured = {"answerable_without_image_fraction": fraction}
            self_play.statistics = self_play.statistics | measured
            log_scalars(trainer, "curation", measured, pl_module.phase.iteration)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: GRPOModule, outputs: Any, batch: Sequence, batch_idx: int
    ) -> None:
        """Log the KL divergence of the policy that sampled this step."""
        if not self._references or pl_module.result is None or (pl_module.phase.step - 1) % self.kl_every_n_steps:
            return
        rollout = pl_module.result.rollout
        kl = {f"kl_to_{name}": _kl(pl_module.role, rollout, p) for name, p in self._references.items()}
        pl_module.log_role(kl)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Let the weights go."""
        self._references = {}

    def state_dict(self) -> dict[str, Any]:
        """The policy at the start of the phase under way; the weights are no copies."""
        start = self._references.get("phase_start")
        return {"phase_start": None if start is None else dict(start.state_dict())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Undo ``state_dict``, for the phase that is continued."""
        self._kept = state_dict["phase_start"]

    def _answer_blind(self, module: GRPOModule, examples: GeneratedDataset) -> float:
        """Fraction of generated questions whose silver answer is given without a look at the image."""
        reasoner = module.validated
        assert isinstance(reasoner, Reasoner), "examples are answered by a Reasoner"
        seed = derive_seed(module.seed, "blind")
        drawn: list[Example] = Draws(examples, seed).draw(min(self.blind_questions, len(examples)))
        keyed = dict(zip(distinct_keys(drawn), drawn, strict=True))
        answers = reasoner.answer_blind({key: example.problem for key, example in keyed.items()}, seed)

        def fraction_right() -> float:
            given = [(answers.get(key), example) for key, example in keyed.items()]
            right = [answer is not None and reasoner.grader(answer, example.answer) for answer, example in given]
            return sum(right) / len(right)

        return from_first(fraction_right)


def _kl(role: TrainedRole, rollout: Rollout, reference: VLM) -> float:
    """Mean k3 estimate over the tokens of a rollout, nats per token, of the policy that sampled from the reference."""
    batch = role.collate(rollout)
    reference_logps = role.learner.score(reference, batch)
    kl = k3_kl(batch.sampled_logps.flatten(0, 1), reference_logps.flatten(0, 1)).view_as(batch.mask)
    return float(kl[batch.mask].mean())
