"""A slow copy of the Reasoner that votes in its place, so that labels do not sharpen with the policy they train."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi
from typing import Any, Literal, get_args

import torch
from lightning import Callback, Trainer

from visplay.modules.policy.vlm import VLM
from visplay.modules.training import GRPOModule
from visplay.modules.visplay import VisPlay

Voted = Literal["rewards", "labels"]


class Teacher(Callback):
    """Keeps a policy that follows the Reasoner's: teacher ← (1 - α) · teacher + α · policy, after each of its updates.

    Co-rewarding-II (arXiv 2508.00410) labels by such a reference, with α falling along a cosine from 0.01 to 1e-5 over
    the run. A rate of 0 is the base for the whole run; a rate of 1 with ``every: phase`` the Reasoner of one phase
    before. The average is one of weights, in float32; of LoRA adapters it averages the two factors of each product.

    ``VisPlay.teacher`` is the policy, named "teacher", with a version that counts its moves. It is one more model, or
    adapter, in memory and in each checkpoint. A whole model is on the CPU while it does not vote, as
    ``self_play.offload`` says, and with a rate of 0 no checkpoint has it.

    Args:
        rate: α, in [0, 1].
        final_rate: α at the end of the run, to which it falls along half a cosine; null keeps ``rate``. Iterations that
            are added to a run stretch what is left of it.
        every: When it moves: after each "step" that has updated the Reasoner, or once in each "phase" of the Reasoner,
            at its start, after the data set was made.
        votes: What it votes on in the Reasoner's place: the "rewards" of questions while the Questioner learns, the
            "labels" of the data set. With neither it is there for what else reads ``VisPlay.teacher``.

    Raises:
        ValueError: A rate is no fraction or would rise, or there is no such vote.
    """

    def __init__(
        self,
        rate: float = 0.01,
        final_rate: float | None = None,
        every: Literal["step", "phase"] = "step",
        votes: Sequence[Voted] = ("labels",),
    ) -> None:
        if not 0 <= rate <= 1:
            raise ValueError(f"rate: must be in [0, 1], got {rate}")
        if final_rate is not None and not 0 <= final_rate <= rate:
            raise ValueError(f"final_rate: must be between 0 and rate={rate}, or null, got {final_rate}")
        if every not in ("step", "phase"):
            raise ValueError(f"every: must be 'step' or 'phase', got {every!r}")
        if unknown := sorted({*votes} - {*get_args(Voted)}):
            raise ValueError(f"votes: some of {list(get_args(Voted))}, got {unknown}")
        self.rate = rate
        self.final_rate = final_rate
        self.every = every
        self.votes = votes
        self._policy: VLM | None = None
        self._followed = 0
        self._kept: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: GRPOModule, stage: str) -> None:
        """Reject a module without votes.

        Raises:
            ValueError: It is no self-play.
        """
        if stage == "fit" and not isinstance(pl_module, VisPlay):
            raise ValueError(f"teacher: votes in self-play, a {type(pl_module).__name__} alone has none; give null")

    def on_fit_start(self, trainer: Trainer, pl_module: VisPlay) -> None:
        """Copy the Reasoner's policy, or take the copy up that a checkpoint had.

        Raises:
            ValueError: Whole weights are sharded, of which a copy can score but not be sampled from.
        """
        policy = pl_module.reasoner.vlm
        if policy.sharded and policy.adapters is None:
            raise ValueError("teacher: a copy of sharded weights cannot vote; give vlm.tuning.lora, or strategy: ddp")
        self._policy = teacher = policy.frozen_copy() if self.rate else policy.base()
        teacher.name, teacher.version, self._followed = "teacher", 0, policy.version
        if self._kept is not None:
            teacher.version, self._followed = self._kept["version"], self._kept["followed"]
            if self._kept["weights"] is not None:
                teacher.load_state_dict(self._kept["weights"])
            self._kept = None
        pl_module.consult(teacher, rewards="rewards" in self.votes, labels="labels" in self.votes)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: VisPlay) -> None:
        """Move once in a phase of the Reasoner; a phase that is continued has begun already."""
        phase = pl_module.phase
        if self.every == "phase" and phase.role == pl_module.reasoner.name and not phase.step:
            self._move(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: VisPlay, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move with a step that has updated the Reasoner."""
        if self.every == "step" and pl_module.reasoner.vlm.version != self._followed:
            self._move(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The teacher's weights, which are no copies; those of the base are not kept."""
        if self._policy is None:
            return {}
        weights = dict(self._policy.state_dict()) if self.rate else None
        return {"version": self._policy.version, "followed": self._followed, "weights": weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Undo ``state_dict`` when the fit begins."""
        self._kept = state_dict or None

    def rate_at(self, fraction: float) -> float:
        """α after a fraction of the run: final + (rate - final) (1 + cos(π · fraction)) / 2.

        Example:
            >>> teacher = Teacher(0.01, 0.002)
            >>> [round(teacher.rate_at(fraction), 6) for fraction in (0.0, 0.5, 1.0)]
            [0.01, 0.006, 0.002]
        """
        final = self.rate if self.final_rate is None else self.final_rate
        return final + (self.rate - final) * (1 + cos(pi * min(fraction, 1.0))) / 2

    def _move(self, trainer: Trainer, module: VisPlay) -> None:
        """Move towards the Reasoner's policy as it is now; the fraction of the run is that before the step."""
        assert self._policy is not None, "on_fit_start has made it"
        policy, self._followed = module.reasoner.vlm, module.reasoner.vlm.version
        if self.rate:
            steps_before = max(module.phase.step - 1, 0) / module.role.config.steps
            fraction = (trainer.current_epoch + steps_before) / max(trainer.max_epochs or 1, 1)
            follow(self._policy, policy, self.rate_at(fraction))
            self._policy.version += 1


@torch.no_grad()
def follow(teacher: VLM, policy: VLM, rate: float) -> None:
    """Move the weights of a policy towards another's in place: w ← (1 - α) w + α w', wherever each is.

    Args:
        teacher: What moves; a frozen copy of ``policy``.
        policy: What it follows.
        rate: α, in [0, 1]; 1 copies exactly.
    """
    for (_, own), (_, new) in zip(teacher.named_weights(), policy.named_weights(), strict=True):
        if own is not new:  # adapters share their model
            own.lerp_(new.to(own.device), rate)
