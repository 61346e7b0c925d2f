"""What every module that can be fitted shares: the GRPO step of the active role, its log, and validation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lightning import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim import Optimizer

from visplay.clock import Clock
from visplay.functional.phases import FIRST_PHASE, Phase
from visplay.metrics import BenchmarkMetrics
from visplay.modules.grpo import StepResult
from visplay.types import Engine, Example, Rollout, derive_seed

if TYPE_CHECKING:
    from visplay.functional.phases import RoleName
    from visplay.modules.reasoner import Reasoner
    from visplay.modules.role import Role


class GRPOModule(LightningModule, ABC):
    """Trains the role whose phase it is; ``SelfPlay`` decides which.

    Args:
        seed: Root of every draw of the run.

    Attributes:
        phase: Iteration and active role.
        attempt: How often this phase has been repeated.
        phase_step: Steps taken in this phase.
        steps_before: Steps the active role took before this phase.
        refill: Gives as many further items of the phase.
        result: The last step's rollout and how it was judged, for loggers.
        scores: What the last validation measured.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.seed = seed
        self.clock = Clock()
        self.phase: Phase = FIRST_PHASE
        self.attempt = 0
        self.phase_step = 0
        self.steps_before = 0
        self.refill: Callable[[int], Sequence] | None = None
        self.result: StepResult | None = None
        self.scores: dict[str, float] = {}
        self._measures: list[BenchmarkMetrics] = []

    @property
    @abstractmethod
    def turns(self) -> tuple[RoleName, ...]:
        """The roles that learn in an iteration, in their order."""

    @property
    @abstractmethod
    def role(self) -> Role:
        """The role that learns now."""

    @property
    @abstractmethod
    def validated(self) -> Reasoner | None:
        """Who answers in validation; None if nobody here learns to answer."""

    @abstractmethod
    def attach_engine(self, engine: Engine) -> None:
        """Hand over the rollout engine."""

    @abstractmethod
    def active_optimizer(self) -> Optimizer:
        """The active role's optimiser."""

    @property
    def role_step(self) -> int:
        """Steps the active role has taken in the whole run, the present one included."""
        return self.steps_before + self.phase_step

    def stage_seed(self, stage: str, step: int = 0) -> int:
        """Root of the draws of one stage of this phase."""
        again = (self.attempt,) if self.attempt else ()
        return derive_seed(self.seed, self.phase.iteration, self.phase.role, stage, step, *again)

    def training_step(self, batch: Sequence, batch_idx: int) -> None:
        """One GRPO step of the active role on N images or examples."""
        self.result = self.role.learner.step(
            self.role,
            batch,
            self.active_optimizer(),
            self.manual_backward,
            self.stage_seed("step", self.phase_step),
            self.refill,
        )
        self.phase_step += 1
        graded = {f"graded_{outcome}": float(n) for outcome, n in self.role.grader.drain_outcomes().items()}
        statistics = self.result.statistics | self.result.judgement.statistics
        self.log_role(statistics | graded | self._speed(self.result.rollout))

    def log_role(self, statistics: dict[str, float]) -> None:
        """Log ``role/metric`` on the role's own step axis."""
        named = {f"{self.role.name}/{name}": value for name, value in statistics.items()}
        self.log_dict(named, logger=False, batch_size=1)
        for logger in self.loggers:
            logger.log_metrics(named, step=self.role_step)

    def _speed(self, rollout: Rollout) -> dict[str, float]:
        """Seconds of each stage, and tokens per second of rollout and update."""
        seconds = self.clock.drain()
        tokens = sum(len(c.token_ids) for group in rollout.completions for c in group)
        speed = {
            f"{stage}_tokens_per_second": tokens / seconds[stage] for stage in ("rollout", "update") if stage in seconds
        }
        return {f"{stage}_seconds": value for stage, value in seconds.items()} | speed

    def on_validation_epoch_start(self) -> None:
        """Start the measures of every benchmark afresh."""
        loaders = self.trainer.val_dataloaders or []
        grader = self._answering().grader
        self._measures = [BenchmarkMetrics(loader.dataset.name, loader.dataset.votes, grader) for loader in loaders]

    def _answering(self) -> Reasoner:
        if self.validated is None:
            raise ValueError(f"validate: a {type(self).__name__} alone does not answer; validate a Reasoner or VisPlay")
        return self.validated

    def validation_step(self, batch: list[Example], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Answer the batch greedily and, where the benchmark asks for it, by sampling."""
        reasoner, seed = self._answering(), derive_seed(self.seed, "validation")
        measures, golds = self._measures[dataloader_idx], [example.answer for example in batch]
        greedy = reasoner.answer(batch, 1, seed, temperature=0.0)
        measures.update_greedy([group[0] for group in greedy], golds)
        if measures.votes:
            measures.update_sampled(reasoner.answer(batch, measures.votes, seed), golds)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/benchmark_measure``; within a fit on the axis of iterations, where the base is iteration 0."""
        self.scores = {f"val/{name}": value for m in self._measures for name, value in m.compute().items()}
        fitting = self.trainer.state.fn == TrainerFn.FITTING
        self.log_dict(self.scores, logger=not fitting)
        for logger in self.loggers if fitting else ():
            logger.log_metrics(self.scores, step=0 if self.trainer.sanity_checking else self.phase.iteration)
