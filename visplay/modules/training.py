"""What every module that can be fitted shares: the GRPO step of the active role, its log, and validation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lightning import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim import Optimizer

from visplay.answered import BatchAnswers, BenchmarkBatch
from visplay.clock import Clock
from visplay.functional.phases import FIRST_PHASE, Phase
from visplay.metrics import BenchmarkScores, Report, SuiteScores
from visplay.modules.answering import Answering, answer_batch
from visplay.modules.learner.grpo import StepResult
from visplay.types import Engine, Rollout, derive_seed

if TYPE_CHECKING:
    from visplay.functional.phases import RoleName
    from visplay.modules.policy.vlm import VLM
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
        evaluated: What the model under test is called.
        answering: How benchmarks are answered.
        judges: Names of the judges whose verdicts ``measures`` is given.
        measures: What the evaluation under way measures.
        reports: What the last evaluation measured, by benchmark.
        scores: The values in it, as they are logged.
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
        self.evaluated = "model"
        self.answering = Answering()
        self.judges: tuple[str, ...] = ()
        self.measures = SuiteScores({})
        self.reports: dict[str, Report] = {}
        self.scores: dict[str, float] = {}

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

    @property
    def idle(self) -> tuple[VLM, ...]:
        """Policies that are sampled from in this phase but do not learn."""
        return ()

    @abstractmethod
    def attach_engine(self, engine: Engine) -> None:
        """Hand over the rollout engine."""

    @abstractmethod
    def active_optimizer(self) -> Optimizer:
        """The active role's optimizer."""

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
        self._start_measures(self.trainer.val_dataloaders)

    def on_test_epoch_start(self) -> None:
        """Start the measures of every benchmark afresh."""
        self._start_measures(self.trainer.test_dataloaders)

    def validation_step(self, batch: BenchmarkBatch, batch_idx: int, dataloader_idx: int = 0) -> BatchAnswers:
        """Answer the batch greedily and, where the benchmark asks for it, by sampling."""
        return self._answer(batch, batch_idx)

    def test_step(self, batch: BenchmarkBatch, batch_idx: int, dataloader_idx: int = 0) -> BatchAnswers:
        """Answer the batch greedily and, where the benchmark asks for it, by sampling."""
        return self._answer(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/benchmark/measure`` on the axis of iterations, where the base is iteration 0."""
        self._finish_measures("val")

    def on_test_epoch_end(self) -> None:
        """Log ``test/model/benchmark/measure``."""
        self._finish_measures(f"test/{self.evaluated}")

    def samples_of(self, benchmark: Any) -> int:
        """K, sampled answers per row of a benchmark."""
        return benchmark.votes if self.answering.samples is None else self.answering.samples

    def _start_measures(self, loaders: Sequence | None) -> None:
        benchmarks = [loader.benchmark for loader in loaders or []]
        scores = {b.name: BenchmarkScores(self.samples_of(b), b.scoring, self.judges) for b in benchmarks}
        self.measures = SuiteScores(scores, self.judges)

    def _answer(self, batch: BenchmarkBatch, number: int) -> BatchAnswers:
        if self.validated is None:
            raise ValueError(f"validate: a {type(self).__name__} alone does not answer; validate a Reasoner or VisPlay")
        self.clock.note = f"{batch.benchmark}, batch {number + 1}"
        samples = self.measures.benchmarks[batch.benchmark].samples
        seed = derive_seed(self.seed, "validation")
        answers = answer_batch(self.validated, replace(batch, samples=samples), self.answering, seed)
        self.measures.update(answers)
        return answers

    def _finish_measures(self, stage: str) -> None:
        self.clock.note = ""
        self.reports = self.measures.compute()
        self.scores = {
            f"{stage}/{benchmark}/{measure}": estimate.value
            for benchmark, report in self.reports.items()
            for measure, estimate in report.measures.items()
            if estimate is not None
        }
        self.log_dict(self.scores, logger=False, sync_dist=True)  # the same on every rank
        fitting = self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking
        for logger in self.loggers:
            logger.log_metrics(self.scores, step=self.phase.iteration if fitting else 0)
