"""The meta-loop: one epoch is one phase; roles swap, and the generated data set is refreshed in between."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from lightning import Callback, Trainer

from visplay.callbacks.advance import AdvanceRule, Decision, PhaseReport
from visplay.callbacks.curation import Curation, Curator
from visplay.data.draws import Drawable, Draws, PhaseBatches
from visplay.functional.phases import FIRST_PHASE, Phase, next_phase
from visplay.modules.policy.placement import HOST, move
from visplay.modules.training import GRPOModule
from visplay.modules.visplay import VisPlay
from visplay.types import derive_seed

logger = logging.getLogger(__name__)

_STATE = (
    "attempt",
    "phases_done",
    "repeats",
    "ended",
    "positions",
    "steps",
    "dataset",
    "statistics",
    "history",
    "scores",
)


class SelfPlay(Callback):
    """Runs the phases: Questioner and Reasoner in turn, or those of a role that is fitted alone.

    A Questioner phase learns from images. A Reasoner phase learns from questions that are asked, voted on and curated
    when it begins, from labelled ones, or from both, as the data module has them.

    Args:
        iterations: Times that every role has its phase.
        curation: How the data set of an iteration is generated.
        advance: Whether a phase is repeated, or the run ends, instead of moving on; null always moves on.
        validate_every: Iterations between two validations; one follows the Reasoner's phase.
        offload: Whether whole models that do not learn, the other role's policy and the reference, lie in the host's
            memory while they are not needed. With adapters, and on a CPU, there is nothing to move.
    """

    def __init__(
        self,
        iterations: int = 3,
        curation: Curation = Curation(),  # noqa: B008 (frozen)
        advance: AdvanceRule | None = None,
        validate_every: int = 1,
        offload: bool = True,
    ) -> None:
        for name, value in (("iterations", iterations), ("validate_every", validate_every)):
            if value < 1:
                raise ValueError(f"{name}: {value} must be at least 1")
        self.iterations = iterations
        self.curation = curation
        self.advance = advance
        self.validate_every = validate_every
        self.offload = offload
        self.phase: Phase = FIRST_PHASE
        self.attempt = 0
        self.phases_done = 0
        self.repeats = 0
        self.ended = False
        self.positions: dict[str, int] = {}
        self.steps = {"questioner": 0, "reasoner": 0}
        self.dataset: str | None = None
        self.statistics: dict[str, float] = {}
        self.history: list[dict[str, float]] = []
        self.scores: dict[str, float] = {}
        self._draws: dict[str, Draws] = {}

    def setup(self, trainer: Trainer, pl_module: GRPOModule, stage: str) -> None:
        """Tell the data module to read what the phase asks for; without anybody who answers nothing is validated.

        Raises:
            ValueError: Several processes would learn, each for itself.
        """
        if stage != "fit":
            return
        if trainer.world_size > 1:
            raise ValueError(
                f"devices, num_nodes: {trainer.world_size} processes, but training is one process in this version; "
                "give devices: 1 and num_nodes: 1 (validate and test take several)"
            )
        self.phase = Phase(1, pl_module.turns[0])
        trainer.datamodule.phase_batches = lambda: self._batches(trainer, pl_module)
        if pl_module.validated is None:
            trainer.limit_val_batches = 0

    def on_fit_start(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Plan as many epochs as there are phases left, after a checkpoint was read."""
        self._plan(trainer, pl_module)
        self._place(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Begin a phase: a frozen reference and a fresh optimizer; validation follows the Reasoner's."""
        self._place(trainer, pl_module)
        role = pl_module.role
        role.learner.begin_phase(role.vlm, pl_module.active_optimizer(), offload=self.offload)
        phase = pl_module.phase
        due = phase.role == "reasoner" and phase.iteration % self.validate_every == 0
        never = trainer.current_epoch + 2
        trainer.check_val_every_n_epoch = 1 if due else never
        self.history = []
        self.scores, pl_module.scores = pl_module.scores or self.scores, {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: GRPOModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the step's statistics."""
        if pl_module.result is not None:
            self.history.append(pl_module.result.statistics | pl_module.result.judgement.statistics)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """End a phase, and move on to the next, repeat it, or end the run."""
        pl_module.role.learner.end_phase(pl_module.active_optimizer())
        self.positions |= {name: draws.position for name, draws in self._draws.items()}
        self.steps[pl_module.phase.role] += pl_module.phase_step
        self.phases_done += 1
        decision = self._decide(pl_module)
        self.scores = pl_module.scores or self.scores
        if decision == "repeat":
            self.attempt, self.repeats = self.attempt + 1, self.repeats + 1
        else:
            self.phase, self.attempt = next_phase(pl_module.phase, pl_module.turns), 0
        self.ended = decision == "stop"
        self._plan(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Phase, places in the collections, and the data set in use."""
        state = {name: getattr(self, name) for name in _STATE}
        return state | {"phase": asdict(self.phase)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Undo ``state_dict``."""
        for name in _STATE:
            setattr(self, name, state_dict[name])
        self.phase = Phase(**state_dict["phase"])

    def _plan(self, trainer: Trainer, module: GRPOModule) -> None:
        """Have the trainer stop after as many epochs as there are phases."""
        planned = len(module.turns) * self.iterations + self.repeats
        trainer.fit_loop.max_epochs = self.phases_done if self.ended else planned

    def _place(self, trainer: Trainer, module: GRPOModule) -> None:
        """Put the policy that learns on the device, and the others on the host."""
        if self.offload:
            for policy in module.idle:
                move(policy, HOST)
            move(module.role.vlm, trainer.strategy.root_device)

    def _decide(self, module: GRPOModule) -> Decision:
        if self.advance is None:
            return "advance"
        report = PhaseReport(
            module.phase, self.attempt, tuple(self.history), self.statistics, module.scores, self.scores
        )
        decision = self.advance.decide(report)
        if decision != "advance":
            measured, name = self.advance.measure(report), type(self.advance).__name__
            logger.warning("%s: %s is %s, not above %s: %s", module.phase, name, measured, self.advance.least, decision)
        return decision

    def _batches(self, trainer: Trainer, module: GRPOModule) -> Iterable:
        """What the phase learns from: images, or questions with answers."""
        module.phase, module.attempt, module.phase_step = self.phase, self.attempt, 0
        module.steps_before = self.steps[self.phase.role]
        self._draws = {}
        draws, config = self._source(trainer, module), module.role.config
        module.refill = draws.draw
        return PhaseBatches(draws, config.steps, config.prompts_per_step)

    def _source(self, trainer: Trainer, module: GRPOModule) -> Drawable:
        """What the phase draws from."""
        if self.phase.role == "questioner":
            return self._draw_from(module, "images", trainer.datamodule.images)
        return self._examples(trainer, module)

    def _draw_from(self, module: GRPOModule, name: str, items: Any) -> Draws:
        """Draw from a collection of the data module, where the last phase that did so left off."""
        self._draws[name] = Draws(items, derive_seed(module.seed, name), self.positions.get(name, 0))
        return self._draws[name]

    def _examples(self, trainer: Trainer, module: GRPOModule) -> Drawable:
        """Questions generated now, or given, or labelled, or a mixture.

        Raises:
            ValueError: Silver answers are given and would be generated as well.
        """
        data = trainer.datamodule
        if isinstance(module, VisPlay) and data.silver is not None:
            raise ValueError(
                f"silver: self-play generates its own data set, got {str(data.silver.path)!r}; leave it null"
            )
        sources = {"labelled": data.labelled, "silver": data.silver}
        draws = {n: self._draw_from(module, n, items) for n, items in sources.items() if items is not None}
        if isinstance(module, VisPlay):
            images = self._draw_from(module, "images", data.images)
            generated, record = Curator(self.curation, trainer, module).generate(images)
            self.dataset, self.statistics = record["path"], record["statistics"]
            draws["silver"] = Draws(generated, module.stage_seed("order"))
        return data.mix(**draws)
