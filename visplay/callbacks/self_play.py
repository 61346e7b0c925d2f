"""The meta-loop: one epoch is one phase; roles swap, and the generated data set is refreshed in between."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy

from visplay.callbacks.curation.curation import Curation
from visplay.callbacks.curation.curator import Curator
from visplay.callbacks.curation.gates import gate_states, load_gate_states
from visplay.callbacks.iterations.advance import AdvanceRule, Decision, PhaseReport
from visplay.callbacks.iterations.phase_sources import PhaseSources, check_dataset
from visplay.callbacks.iterations.referee import Referee
from visplay.callbacks.iterations.replay_buffer import ReplayBuffer
from visplay.callbacks.logging import log_position, log_scalars, run_directory
from visplay.callbacks.skipped_updates import SkippedUpdates
from visplay.callbacks.teacher import Teacher
from visplay.data.draws import Drawable
from visplay.data.earlier_datasets import DatasetFile, draw_questions, pool
from visplay.data.generated import GeneratedDataset
from visplay.modules.policy.weights.placement import CPU, move
from visplay.modules.role import Role
from visplay.modules.training import GRPOModule
from visplay.modules.visplay import VisPlay
from visplay.ranks import copy_from_first
from visplay.strategy import FSDP2Strategy
from visplay.types import PhaseState, UnlabeledImage, derive_seed

logger = logging.getLogger(__name__)

_STATE = ("phases_done", "repeats", "ended", "dataset", "dataset_sha256", "statistics", "history", "scores")
_LATER_STATE = ("learned", "decision")  # which checkpoints of older versions do not have


class SelfPlay(Callback):
    """Runs the phases (VisPlay, arXiv 2511.15661): Questioner and Reasoner in turn, or those of a role fitted alone.

    One epoch of the trainer is one phase: at its start ``begin_phase`` swaps the roles and gives the one that learns
    its items. A role that learns from images gets unlabeled ones. A role that learns from examples gets questions that
    are asked, voted on and curated at that moment, labelled ones, or both, as the data module has them. It comes
    before all callbacks that look at the phase.

    A checkpoint keeps where the run is (``PhaseState``), the data set in use and its hash, what the gates remember and
    the advance rule reads, and how long the log was; with what ``GRPOModule`` and ``GRPO`` keep, a phase goes on after
    any of its steps as if nothing had happened.

    Args:
        iterations: Times that every role has its phase.
        curation: How the data set of an iteration is generated.
        advance: Whether a phase is repeated or undone, or the run ends, instead of moving on; null always moves on.
        validate_every: Iterations between two validations; one follows the last role's phase.
        offload: Whether whole models that do not learn, the other roles' policies and the reference, are kept in CPU
            memory while they are not needed. With adapters, and on a CPU, there is nothing to move.
        replay: What the Reasoner learns from again of earlier iterations; null replays nothing.

    Attributes:
        sources: What the phase under way draws from.
        decision: What followed the last phase that is over.
        learned: Path and hash of the data sets that earlier phases learned from, the oldest first.
        settings: Of the run, by dotted name, to keep in its checkpoints.
    """

    def __init__(
        self,
        iterations: int = 3,
        curation: Curation = Curation(),  # noqa: B008 (frozen)
        advance: AdvanceRule | None = None,
        validate_every: int = 1,
        offload: bool = True,
        replay: ReplayBuffer | None = None,
    ) -> None:
        for name, value in (("iterations", iterations), ("validate_every", validate_every)):
            if value < 1:
                raise ValueError(f"{name}: {value} must be at least 1")
        self.iterations = iterations
        self.curation = curation
        self.referee = Referee(advance)
        self.replay = replay
        self.validate_every = validate_every
        self.offload = offload
        self.phase: PhaseState
        self.sources: PhaseSources
        self.phases_done = 0
        self.repeats = 0
        self.ended = False
        self.decision: Decision = "advance"
        self.dataset: str | None = None
        self.dataset_sha256: str | None = None
        self.learned: list[list[str]] = []
        self.statistics: dict[str, float] = {}
        self.history: list[dict[str, float]] = []
        self.scores: dict[str, float] = {}
        self.settings: dict[str, Any] = {}
        self._continued = False

    def setup(self, trainer: Trainer, pl_module: GRPOModule, stage: str) -> None:
        """Have the trainer ask for new batches every epoch; without anybody who answers nothing is validated.

        Raises:
            ValueError: Several processes would learn, and not by DDP or FSDP2; or the trainer is told what leaves no
                phases.
        """
        if stage != "fit":
            return
        if trainer.world_size > 1 or type(trainer.strategy) is DDPStrategy:
            _learn_together(trainer.strategy, pl_module)
        cut = {
            "limit_train_batches": trainer.limit_train_batches == 0,
            "overfit_batches": trainer.overfit_batches != 0,
            "val_check_interval": trainer.val_check_interval != 1.0,
        }
        for name in (name for name in cut if cut[name]):
            raise ValueError(
                f"trainer.{name}: {getattr(trainer, name)} leaves no whole phases, which are grpo.steps long with a "
                "validation behind the last role's; leave it out"
            )
        self.phase = pl_module.phase
        trainer.reload_dataloaders_every_n_epochs = 1  # an epoch is as long as its role's phase
        trainer.datamodule.phase_batches = lambda: PhaseBatches(self, pl_module)
        if pl_module.validated is None:
            trainer.limit_val_batches = 0

    def on_fit_start(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Plan as many epochs as there are phases left, after a checkpoint was read."""
        pl_module.phase = self.phase
        if self._continued:  # the base was validated, and its scores are in the checkpoint
            trainer.num_sanity_val_steps = 0
        else:
            self.referee.begin_run(pl_module)
        self._plan_epochs(trainer, pl_module)
        self._place(trainer, pl_module)
        self._try_prompts(pl_module)
        view, teachers = self.curation.second_view, [each for each in trainer.callbacks if isinstance(each, Teacher)]
        if view is not None and view.voter == "teacher" and not teachers:
            raise ValueError("second_view.voter: the teacher is to vote, and there is none; give `teacher`")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Begin a phase; validation follows that of the last role."""
        if not self.phase.step:
            self.history = []
        self.begin_phase(trainer, pl_module)
        last = pl_module.phase.role == list(pl_module.roles)[-1]
        never = trainer.current_epoch + 2
        due = last and pl_module.phase.iteration % self.validate_every == 0
        trainer.check_val_every_n_epoch = 1 if due else never
        self.scores, pl_module.scores = pl_module.scores or self.scores, {}

    def begin_phase(self, trainer: Trainer, module: GRPOModule) -> None:
        """Swap the roles: give the one that learns its items, a frozen reference and a fresh optimizer state.

        A phase of which steps are done is continued with the items, the reference and the state that it had.
        """
        module.phase = self.phase
        self._place(trainer, module)
        self.sources = PhaseSources(module)
        role = module.role
        role.grader.drain_outcomes()  # those of a validation, which no step has graded
        if role.learns_from == "images":
            self.sources.source = self.sources.over_run("images", trainer.datamodule.images)
            self._remember(module)
        else:
            self._draw_examples(trainer, module)
        module.refill, module.upcoming = self.sources.draw, partial(self.sources.draw_ahead, role.config)
        skipped = run_directory(trainer) / "skipped"
        role.learner.on_skipped = SkippedUpdates(skipped, module) if trainer.is_global_zero else None
        role.learner.begin_phase(
            role.vlm,
            module.active_optimizer(),
            iteration=self.phase.iteration,
            offload=self.offload,
            continued=self.phase.step > 0,
        )

    def end_phase(self, trainer: Trainer) -> None:
        """End the phase under way with the step just taken; what follows a phase, its validation included, does."""
        loop = trainer.fit_loop
        loop.max_batches = trainer.val_check_batch = loop.epoch_loop.batch_idx + 1  # until the next epoch's loader

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: GRPOModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the step's statistics; a phase that takes no steps ends with its batch without items."""
        if self.referee.idle:
            self._end_idle_phase(trainer)
        if pl_module.result is not None:
            self.history.append(pl_module.result.statistics | pl_module.result.judgement.statistics)
        if self.replay is not None and pl_module.role.learns_from == "examples" and batch:
            replayed = sum(0 < example.iteration < self.phase.iteration for example in batch)
            pl_module.log_role({"replayed_fraction": replayed / len(batch)})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """End a phase, and say which one follows; until it begins, the module is still in the one that ended."""
        pl_module.role.learner.end_phase(pl_module.active_optimizer())
        self.phases_done += 1
        learned = "generated" in self.phase.drawn
        self.decision = self.referee.judge_phase(trainer, self._report(pl_module))
        self.scores = pl_module.scores or self.scores
        if learned and self.decision != "repeat":
            self.learned.append([str(self.dataset), str(self.dataset_sha256)])
        repeat = self.decision == "repeat"
        self.repeats += repeat
        self.ended = self.decision == "stop"
        self.phase = self.phase.repeated() if repeat else self.phase.following(list(pl_module.roles))
        self._plan_epochs(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The phase under way, or the next one, the data set in use, and what gates and the advance rule read."""
        own = {name: copy.deepcopy(getattr(self, name)) for name in (*_STATE, *_LATER_STATE)}
        others = {"gates": gate_states(self.curation.gates), "referee": self.referee.state_dict()}
        return own | {"phase": asdict(self.phase)} | others

    def on_save_checkpoint(self, trainer: Trainer, pl_module: GRPOModule, checkpoint: dict[str, Any]) -> None:
        """Have the trainer begin the epoch of the phase under way anew: ``begin_phase`` knows what is done of it."""
        phase, loop = self.phase, checkpoint["loops"]["fit_loop"]
        counts = dict.fromkeys(("ready", "started", "processed", "completed"), self.phases_done)
        loop["epoch_progress"] = {"total": dict(counts), "current": dict(counts)}
        steps = sum(phase.steps_before.values()) + phase.step
        all_done = phase.step >= pl_module.roles[phase.role].config.steps  # the batch without items counts
        loop["epoch_loop.state_dict"]["_batches_that_stepped"] = steps - all_done
        checkpoint["log"] = log_position(trainer)
        checkpoint["settings"] = self.settings

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Undo ``state_dict``; a ValueError if another version wrote it."""
        try:
            for name in _STATE:
                setattr(self, name, state_dict[name])
            for name in _LATER_STATE:
                setattr(self, name, state_dict.get(name, getattr(self, name)))
            self.phase = PhaseState(**state_dict["phase"])
            load_gate_states(self.curation.gates, state_dict.get("gates", {}))  # those of older ones have none
            if "referee" in state_dict:
                self.referee.load_state_dict(state_dict["referee"])
            self._continued = True
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"ckpt_path: the checkpoint is of another version, which this one cannot continue: {error!r}"
            ) from error

    def _try_prompts(self, module: GRPOModule) -> None:
        """Write every prompt of the run once, before the first question, about a small image where the model takes one.

        Raises:
            ValueError: The chat template of a checkpoint does not take one, or no completion fits behind it.
        """
        roles = [role for role in module.modules() if isinstance(role, Role)]
        prompts = [(role.vlm, template) for role in roles for template in role.templates]
        if isinstance(module, VisPlay):
            view = self.curation.second_view
            prompts.append((module.questioner.vlm, self.curation.template))
            for voting in (self.curation.voting, None if view is None else view.voting):
                prompts.append((module.reasoner.vlm, None if voting is None else voting.template))
        if module.validated is not None:
            prompts.append((module.validated.vlm, module.answering.template))
        for vlm, template in prompts:
            if template is not None:
                vlm.encode_any("tried", template)
        for name, learner in module.roles.items():
            prompt = learner.vlm.encode_any(name, learner.template)
            if reason := learner.vlm.why_too_long(prompt, learner.config.max_new_tokens):
                raise ValueError(f"{name}.grpo.max_new_tokens: {reason}; give less, or a larger vlm.max_context_tokens")

    def _end_idle_phase(self, trainer: Trainer) -> None:
        """End a phase that takes no steps, and have its checkpoint written all the same."""
        self.end_phase(trainer)
        trainer.fit_loop.epoch_loop._batches_that_stepped -= 1  # the batch without items is none
        for writer in trainer.checkpoint_callbacks:
            if isinstance(writer, ModelCheckpoint):
                writer._last_global_step_saved = -1  # at this step it has written that of the phase before

    def _plan_epochs(self, trainer: Trainer, module: GRPOModule) -> None:
        """Have the trainer stop after as many epochs as there are phases."""
        planned = len(module.roles) * self.iterations + self.repeats
        trainer.fit_loop.max_epochs = self.phases_done if self.ended else planned

    def _place(self, trainer: Trainer, module: GRPOModule) -> None:
        """Put the policy that learns on the device, and the others in CPU memory."""
        if self.offload:
            for policy in module.idle:
                move(policy, CPU)
            move(module.role.vlm, trainer.strategy.root_device)

    def _report(self, module: GRPOModule) -> PhaseReport:
        """What the advance rule is told."""
        learns_from, history = module.role.learns_from, tuple(self.history)
        return PhaseReport(module.phase, learns_from, history, self.statistics, module.scores, self.scores)

    def _remember(self, module: GRPOModule) -> None:
        """Remind a Questioner that pays for it of what earlier iterations kept."""
        if isinstance(module, VisPlay) and (memory := module.questioner.reward.memory) is not None:
            module.questioner.remembered = draw_questions(self._earlier(), memory.size, module.stage_seed("memory"))

    def _earlier(self) -> list[DatasetFile]:
        """The data sets that earlier phases learned from."""
        return [DatasetFile(*each) for each in self.learned]

    def _draw_examples(self, trainer: Trainer, module: GRPOModule) -> None:
        """Have the phase learn from questions generated now, or given, or labelled, or a mixture.

        A data set that the advance rule does not let it learn from leaves it those of earlier iterations, or nothing.

        Raises:
            ValueError: Silver answers are given and would be generated as well.
        """
        data = trainer.datamodule
        if not isinstance(module, VisPlay):
            self.sources.mix(data)
            return
        if data.silver is not None:
            raise ValueError(
                f"silver: self-play generates its own data set, got {str(data.silver.path)!r}; leave it null"
            )
        generated, earlier = None, self._earlier()
        if not self.phase.step and self.referee.verdict == "advance":  # else it was made, and judged
            generated = self._refresh_dataset(trainer, module)
            self.referee.judge_dataset(trainer, module, self._report(module))
        if self.referee.verdict == "restart":
            self.sources.mix(data, self.sources.within_phase("pooled", pool(earlier), "order"))
        if self.referee.verdict != "advance":
            return
        if generated is None:
            generated = check_dataset(self.dataset, self.dataset_sha256)
        silver: Drawable = self.sources.within_phase("generated", generated, "order")
        if self.replay is not None:
            replayed = self.replay.fill(earlier, derive_seed(module.seed, "replay"))
            silver = self.sources.with_replayed(silver, replayed, self.replay.share)
            if not self.phase.step:
                log_scalars(trainer, "replay", {"held": len(replayed)}, self.phase.iteration)
        self.sources.mix(data, silver)

    def _refresh_dataset(self, trainer: Trainer, module: VisPlay) -> GeneratedDataset:
        """Generate the data set of the iteration: ask about images, vote, and curate."""

        def why_not(image: UnlabeledImage) -> str | None:
            return module.questioner.why_not_asked(image, self.curation.template)

        images = self.sources.over_run("images", trainer.datamodule.images, why_not)
        generated, record = Curator(self.curation, trainer, module).generate(images)
        self.phase.positions["images"] = images.position
        self.dataset, self.dataset_sha256 = record["path"], record["sha256"]
        self.statistics = record["statistics"]
        return generated


def _learn_together(strategy: Any, module: GRPOModule) -> None:
    """Have ``GRPO`` alone reduce gradients, once in an update and for the role that learns; the ranks begin alike.

    Lightning would wrap the module to reduce every weight of both roles in every backward pass, which differ in number
    between ranks, from buckets as large as all gradients.
    """
    if isinstance(strategy, FSDP2Strategy):  # its gradients are reduced where they are made
        return
    if type(strategy) is not DDPStrategy:  # others derive from it
        raise ValueError(
            f"strategy: several processes learn by 'ddp' or 'fsdp2', got {type(strategy).__name__}; give "
            "trainer.strategy: ddp or fsdp2, or devices: 1 and num_nodes: 1"
        )
    strategy.configure_ddp = lambda: copy_from_first([*module.parameters(), *module.buffers()])


class PhaseBatches:
    """The batches of the next phase, a loader for one epoch: N items for each of its steps that is left.

    A phase that was continued after its last step, or takes none, has one batch without items: what follows the last
    step, a validation, then follows it.

    Args:
        self_play: Draws the items, once the phase has begun.
        module: Knows the settings of the role that learns.
    """

    def __init__(self, self_play: SelfPlay, module: GRPOModule) -> None:
        self.self_play = self_play
        self.config = module.roles[self_play.phase.role].config
        self.steps_left = self.config.steps - self_play.phase.step

    def __len__(self) -> int:
        return max(self.steps_left, 1)

    def __iter__(self) -> Iterator[Sequence]:
        for _ in range(len(self)):
            empty = self.steps_left <= 0 or self.self_play.referee.idle
            yield () if empty else self.self_play.sources.draw(self.config.prompts_per_step)
