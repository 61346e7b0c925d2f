"""VisPlay: one base VLM plays both roles; the active role learns, and everything is logged here."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from lightning import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim import Optimizer

from visplay.clock import Clock
from visplay.functional.phases import FIRST_PHASE, Phase
from visplay.metrics import BenchmarkMetrics
from visplay.modules.questioner import Questioner
from visplay.modules.reasoner import Reasoner
from visplay.modules.role import Judgement, Role
from visplay.modules.vlm import VLM
from visplay.types import Engine, Example, Proposal, Rollout, UnlabeledImage, derive_seed


class VisPlay(LightningModule):
    """Trains the role whose phase it is; ``SelfPlay`` decides which.

    Args:
        vlm: The base both policies start from.
        questioner: Asks.
        reasoner: Answers and votes.
        seed: Root of every draw of the run.

    Attributes:
        phase: Iteration and active role.
        phase_step: Steps taken in this phase.
        judgement: How the last step's rollout was judged, for loggers.
        scores: What the last validation measured.
    """

    def __init__(self, vlm: VLM, questioner: Questioner, reasoner: Reasoner, seed: int = 0) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.questioner = questioner
        self.reasoner = reasoner
        self.seed = seed
        self.clock = Clock()
        self.phase: Phase = FIRST_PHASE
        self.phase_step = 0
        self.judgement: Judgement | None = None
        self.scores: dict[str, float] = {}
        self._measures: list[BenchmarkMetrics] = []
        questioner.adopt(copy.deepcopy(vlm), self.clock)
        reasoner.adopt(vlm, self.clock)
        questioner.jury = reasoner

    @property
    def role(self) -> Role:
        """The role that learns now."""
        return self.questioner if self.phase.role == "questioner" else self.reasoner

    @property
    def role_step(self) -> int:
        """Steps the active role has taken in the whole run, the present one included."""
        return (self.phase.iteration - 1) * self.role.config.steps + self.phase_step

    def attach_engine(self, engine: Engine) -> None:
        """Hand the rollout engine to both roles."""
        self.questioner.attach_engine(engine)
        self.reasoner.attach_engine(engine)

    def configure_model(self) -> None:
        """Load both policies from the base."""
        self.questioner.vlm.load()
        self.reasoner.vlm.load()

    def configure_optimizers(self) -> list[Optimizer]:
        """One optimiser per role."""
        return [self.questioner.make_optimizer(), self.reasoner.make_optimizer()]

    def active_optimizer(self) -> Optimizer:
        """The active role's optimiser."""
        optimizers = self.optimizers()
        return optimizers[0] if self.role is self.questioner else optimizers[1]

    def stage_seed(self, stage: str, step: int = 0) -> int:
        """Root of the draws of one stage of this phase."""
        return derive_seed(self.seed, self.phase.iteration, self.phase.role, stage, step)

    def training_step(self, batch: Sequence, batch_idx: int) -> None:
        """One GRPO step of the active role on N images or examples."""
        rollout, self.judgement, statistics = self.role.learner.step(
            self.role, batch, self.active_optimizer(), self.manual_backward, self.stage_seed("step", self.phase_step)
        )
        self.phase_step += 1
        self._log(statistics | self.judgement.statistics | self._speed(rollout))

    def _log(self, statistics: dict[str, float]) -> None:
        """Log ``role/metric`` on the role's own step axis."""
        named = {f"{self.role.name}/{name}": value for name, value in statistics.items()}
        self.log_dict(named, logger=False, batch_size=1)
        for logger in self.loggers:
            logger.log_metrics(named, step=self.role_step)

    def _speed(self, rollout: Rollout) -> dict[str, float]:
        """Seconds of each stage and tokens per second of the rollout."""
        seconds = self.clock.drain()
        tokens = sum(len(c.token_ids) for group in rollout.completions for c in group)
        speed = {
            "rollout_tokens_per_second": tokens / seconds["rollout"],
            "update_tokens_per_second": tokens / seconds["update"],
        }
        return {f"{stage}_seconds": value for stage, value in seconds.items()} | speed

    def on_validation_epoch_start(self) -> None:
        """Start the measures of every benchmark afresh."""
        loaders = self.trainer.val_dataloaders or []
        self._measures = [BenchmarkMetrics(loader.dataset.name, loader.dataset.votes) for loader in loaders]

    def validation_step(self, batch: list[Example], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Answer the batch greedily and, where the benchmark asks for it, by sampling."""
        measures, golds = self._measures[dataloader_idx], [example.answer for example in batch]
        greedy = self.reasoner.answer(batch, 1, derive_seed(self.seed, "validation"), temperature=0.0)
        measures.update_greedy([group[0] for group in greedy], golds)
        if measures.votes:
            measures.update_sampled(
                self.reasoner.answer(batch, measures.votes, derive_seed(self.seed, "validation")), golds
            )

    def on_validation_epoch_end(self) -> None:
        """Log ``val/benchmark_measure``; within a fit on the axis of iterations, where the base is iteration 0."""
        self.scores = {f"val/{name}": value for m in self._measures for name, value in m.compute().items()}
        fitting = self.trainer.state.fn == TrainerFn.FITTING
        self.log_dict(self.scores, logger=not fitting)
        for logger in self.loggers if fitting else ():
            logger.log_metrics(self.scores, step=0 if self.trainer.sanity_checking else self.phase.iteration)

    def propose(self, images: Sequence[UnlabeledImage], questions_per_image: int, seed: int) -> list[Proposal]:
        """Ask about images and vote on the questions, without learning.

        Returns:
            ``questions_per_image`` proposals for each image, image by image.
        """
        with self.clock("questions"):
            questions = self.questioner.ask(self.questioner.rollout(images, questions_per_image, seed))
        with self.clock("votes"):
            votes = self.reasoner.vote_on(images, questions, seed)
        return [
            Proposal(image, question, vote)
            for image, asked, held in zip(images, questions, votes, strict=True)
            for question, vote in zip(asked, held, strict=True)
        ]
