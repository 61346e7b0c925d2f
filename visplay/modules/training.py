"""What every module that can be fitted shares: the GRPO step of the active role, and its log."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch.optim import Optimizer

from visplay.clock import Clock
from visplay.grading.worker import Grader
from visplay.modules.answering import AnsweringModule
from visplay.modules.learner.grpo import GRPO, LearningRole, StepResult
from visplay.modules.learner.grpo_config import GRPOConfig
from visplay.modules.learner.sampling_ahead import NextStep
from visplay.modules.policy.vlm import VLM
from visplay.prompts import Template
from visplay.ranks import total
from visplay.types import Engine, PhaseState, Record, derive_seed

logger = logging.getLogger(__name__)

_FIRST_STEPS = 3
_SHOWN_CHARACTERS = 200


class TrainedRole(LearningRole, Protocol):
    """What a module that can be fitted needs of a role."""

    name: str
    learns_from: str
    template: Template
    learner: GRPO
    grader: Grader

    @property
    def config(self) -> GRPOConfig:
        """Settings of learning and sampling."""

    def make_optimizer(self) -> Optimizer:
        """The optimizer of its policy."""

    def why_not_asked(self, item: Any, template: Template | None = None) -> str | None:
        """Why an item does not fit the context; None where it does."""


class GRPOModule(AnsweringModule):
    """Trains the role whose phase it is; ``SelfPlay`` decides which, and gives the items.

    Args:
        seed: Root of every draw of the run.

    Attributes:
        refill: Gives as many further items of the phase.
        upcoming: Gives the items of the step after the one under way, none after the last.
        result: The last step's rollout and how it was judged, for loggers.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.automatic_optimization = False
        self.clock = Clock()
        self._phase: PhaseState | None = None
        self.refill: Callable[[int], Sequence] | None = None
        self.upcoming: Callable[[], Sequence] | None = None
        self.result: StepResult | None = None
        self._equal_rewards = 0
        self._random: dict[str, Any] | None = None

    @property
    @abstractmethod
    def roles(self) -> Mapping[str, TrainedRole]:
        """The roles that learn in an iteration, by name, in the order of their phases."""

    @property
    def phase(self) -> PhaseState:
        """The phase under way; the first one where none has begun."""
        if self._phase is None:
            self._phase = PhaseState(next(iter(self.roles)))
        return self._phase

    @phase.setter
    def phase(self, phase: PhaseState) -> None:
        self._phase = phase

    @property
    def role(self) -> TrainedRole:
        """The role that learns now."""
        return self.roles[self.phase.role]

    @property
    def idle(self) -> tuple[VLM, ...]:
        """Policies that are sampled from in this phase but do not learn."""
        return tuple(role.vlm for role in self.roles.values() if role.vlm is not self.role.vlm)

    @abstractmethod
    def attach_engine(self, engine: Engine) -> None:
        """Hand over the rollout engine."""

    def configure_optimizers(self) -> list[Optimizer]:
        """One optimizer per role, in their order."""
        return [role.make_optimizer() for role in self.roles.values()]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what a step follows from besides weights and optimizers: see ``GRPO.state_dict``, and dropout."""
        checkpoint["learners"] = {
            name: role.learner.state_dict() | {"version": role.vlm.version} for name, role in self.roles.items()
        }
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        checkpoint["equal_rewards"] = self._equal_rewards
        checkpoint["random"] = {"cpu": torch.get_rng_state(), "cuda": cuda}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take weights and states; an optimizer's settings are the configuration's.

        Raises:
            ValueError: The weights are not those of this module.
        """
        own, given = ({n: tuple(w.shape) for n, w in s.items()} for s in (self.state_dict(), checkpoint["state_dict"]))
        if differing := sorted(name for name in own.keys() | given.keys() if own.get(name) != given.get(name)):
            name = differing[0]
            raise ValueError(
                f"ckpt_path: {len(differing)} weights are not those of the configured model, such as {name!r}: "
                f"{given.get(name, 'missing')} in the checkpoint and {own.get(name, 'missing')} here"
            )
        checkpoint["optimizer_states"] = [
            saved | {"param_groups": role.make_optimizer().state_dict()["param_groups"]}
            for saved, role in zip(checkpoint.get("optimizer_states", []), self.roles.values(), strict=False)
        ]
        for name, state in checkpoint.get("learners", {}).items():
            self.roles[name].learner.load_state_dict(state)
            self.roles[name].vlm.version = state["version"]
        self._equal_rewards = checkpoint.get("equal_rewards", 0)
        self._random = checkpoint.get("random")

    def on_train_start(self) -> None:
        """Have torch's own random numbers, which dropout takes, follow from the seed, or go on as in the checkpoint.

        With deterministic algorithms torch also fills all memory that it allocates; nothing here reads it unwritten.
        """
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        if self._random is None:
            torch.manual_seed(derive_seed(self.seed, "random"))
        else:
            torch.set_rng_state(self._random["cpu"])
            if self._random["cuda"] and torch.cuda.is_available():
                torch.cuda.set_rng_state_all(self._random["cuda"])

    def on_train_epoch_start(self) -> None:
        """Go on with them where a phase does, whatever was drawn to take it up again."""
        if self.phase.step and self._random is not None:
            self.on_train_start()
        self._random = None

    def active_optimizer(self) -> Optimizer:
        """The active role's optimizer."""
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        return optimizers[list(self.roles).index(self.phase.role)]

    def stage_seed(self, stage: str, step: int = 0) -> int:
        """Root of the draws of one stage of this phase."""
        again = (self.phase.attempt,) if self.phase.attempt else ()
        return derive_seed(self.seed, self.phase.iteration, self.phase.role, stage, step, *again)

    def training_step(self, batch: Sequence, batch_idx: int) -> None:
        """One GRPO step of the active role on N images or examples; none without any, see ``PhaseBatches``."""
        if not batch:
            self.result = None
            return
        result = self.role.learner.step(
            self.role,
            batch,
            self.active_optimizer(),
            self.manual_backward,
            self.stage_seed("step", self.phase.step),
            self.refill,
            getattr(self.trainer.precision_plugin, "scaler", None),
            self._next_step,
        )
        self.result = result._replace(statistics=result.statistics | self.clock.drain_tokens())
        self.phase.step += 1
        self._warn_of_equal_rewards(self.result)
        seconds = self.clock.drain()
        tokens = self.result.rollout.completion_tokens
        graded = {f"graded_{outcome}": float(n) for outcome, n in total(self.role.grader.drain_outcomes()).items()}
        speed = {f"{stage}_seconds": value for stage, value in seconds.items()}
        speed |= {f"{s}_tokens_per_second": tokens / seconds[s] for s in ("rollout", "update") if s in seconds}
        self.log_role(self.result.statistics | self.result.judgement.statistics | graded | speed)

    def _next_step(self) -> NextStep:
        """Draw what the next step samples."""
        items = () if self.upcoming is None else self.upcoming()
        return NextStep(items, self.stage_seed("step", self.phase.step + 1))

    def _warn_of_equal_rewards(self, result: StepResult) -> None:
        """Say so once if all rewards of every group were equal in each of a phase's first steps: nothing is learned."""
        equal = result.statistics["zero_variance_groups"] == 1.0
        self._equal_rewards = equal if self.phase.step == 1 else self._equal_rewards + equal
        first = min(_FIRST_STEPS, self.role.config.steps)
        if self.phase.step == first == self._equal_rewards:
            records = result.judgement.records[: result.judgement.rewards.shape[1]]
            where = f"iteration {self.phase.iteration}, {self.role.name}"
            why = "prompt, parser and labels may not fit each other"
            message = "%s: all rewards of every group were equal in each of the first %d steps: nothing to learn; %s.%s"
            logger.warning(message, where, first, why, _show_group(records))

    def log_role(self, statistics: dict[str, float]) -> None:
        """Log ``role/metric`` on the role's own step axis."""
        named = {f"{self.role.name}/{name}": value for name, value in statistics.items()}
        self.log_dict(named, logger=False, batch_size=1)
        for logger in self.loggers:
            logger.log_metrics(named, step=self.phase.role_step)


def _show_group(records: Sequence[Record]) -> str:
    """Three different completions of a group, and the label."""
    if not records:
        return ""
    first = records[0]
    label = "" if first.gold is None else f", gold answer {first.gold!r}"
    if first.gold is None and first.vote is not None:
        label = f", silver answer {first.vote.answer!r}"
    texts = list(dict.fromkeys(record.text[-_SHOWN_CHARACTERS:] for record in records))[:3]
    return f" For example: question {first.problem!r}{label}, rewards of {first.reward:g}, completions {texts}"
