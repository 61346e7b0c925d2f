"""LightningCLI for VisPlay: the configuration is the signature of the constructors, and states what differs."""

from __future__ import annotations

import argparse
import logging
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import set_parsing_settings
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from visplay.callbacks.checkpoints import StepCheckpoint
from visplay.callbacks.curation.curator import TooFewQuestionsError
from visplay.callbacks.dashboard import Dashboard
from visplay.callbacks.engines.engine import RolloutEngine
from visplay.callbacks.evaluation import Evaluation
from visplay.callbacks.health import Health
from visplay.callbacks.logging import check_shared, run_directory
from visplay.callbacks.records.recorder import Recorder
from visplay.callbacks.rollout_sink import RolloutSink
from visplay.callbacks.run_record import RunRecord
from visplay.callbacks.samples import SampleLogger
from visplay.callbacks.self_play import SelfPlay
from visplay.callbacks.summary import Summary
from visplay.callbacks.teacher import Teacher
from visplay.checking import ModelCheck
from visplay.commands.compare import evaluate_models
from visplay.commands.continuing import begin_run, find_checkpoint
from visplay.commands.settings.configuration import TRAINER_DEFAULTS, construct, expand_home
from visplay.commands.settings.defaults import changed_settings
from visplay.commands.settings.plain_errors import describe_os_error, name_key
from visplay.commands.settings.suggesting_parser import SuggestingParser
from visplay.data.draws import NothingUsableError
from visplay.data.module import SelfPlayData
from visplay.judge import JudgeUnavailableError
from visplay.modules.training import GRPOModule
from visplay.provenance import flatten
from visplay.rank_watch import RankWatch
from visplay.ranks import check_alike
from visplay.terminal import set_up_log

logger = logging.getLogger(__name__)

CALLBACKS: Mapping[str, tuple[type[Callback], Mapping[str, Any] | None]] = {
    "check": (ModelCheck, {"class_path": "visplay.checking.ModelCheck"}),
    "record": (Recorder, {"class_path": "visplay.callbacks.Recorder"}),  # before health, which may change the policy
    "health": (Health, {"class_path": "visplay.callbacks.Health"}),
    "teacher": (Teacher, None),  # after health, whose policy it follows
    "progress": (ProgressBar, {"class_path": "visplay.callbacks.PhaseProgress"}),
    "run_record": (RunRecord, {"class_path": "visplay.callbacks.RunRecord"}),
    "dashboard": (Dashboard, {"class_path": "visplay.callbacks.Dashboard"}),
    "samples": (SampleLogger, {"class_path": "visplay.callbacks.SampleLogger"}),
    "sink": (RolloutSink, {"class_path": "visplay.callbacks.RolloutSink"}),
    "summary": (Summary, {"class_path": "visplay.callbacks.Summary"}),
    "checkpoint": (
        ModelCheckpoint,
        {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {
                "filename": "phase-{epoch:02d}",
                "auto_insert_metric_name": False,
                "save_top_k": -1,
                "save_on_train_epoch_end": True,
                "every_n_epochs": 1,
            },
        },
    ),
    "step_checkpoint": (StepCheckpoint, {"class_path": "visplay.callbacks.StepCheckpoint"}),
}
"""Callbacks of every run, by their keys: of which class, and what they are by default."""


class VisPlayCLI(LightningCLI):
    """``fit``, ``validate`` and ``test``.

    The rollout engine, self-play, evaluation and the callbacks of every run have top-level keys: an overlay changes one
    without replacing the others, ``null`` switches one of ``CALLBACKS`` off, and what ``trainer.callbacks`` lists is
    added to them. Only a progress bar listed there takes the place of ``progress``, as a trainer has one. Lightning's
    own switches ``trainer.enable_checkpointing`` and ``trainer.enable_progress_bar`` work too.

    A run's directory is that of its TensorBoard or CSV log, in whatever place it is among ``trainer.logger``; where
    there is neither, as with W&B alone, TensorBoard's is added.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the keys of the callbacks, with their defaults."""
        for key, (kind, default) in CALLBACKS.items():
            parser.add_lightning_class_args(kind, key, subclass_mode=True, required=False)
            parser.set_defaults({key: default})
        parser.add_lightning_class_args(RolloutEngine, "rollout", subclass_mode=True)
        parser.add_lightning_class_args(SelfPlay, "self_play")
        parser.add_lightning_class_args(Evaluation, "evaluation")
        parser.set_defaults({"evaluation.directory": "${..trainer.default_root_dir}/evaluation"})
        parser.link_arguments("self_play.iterations", "trainer.max_epochs", compute_fn=_epochs)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **options: Any) -> LightningArgumentParser:
        """Read checkpoints that ``--ckpt_path`` names as tensors and plain values, never as code."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, **options)
        parser.set_defaults({"weights_only": True})
        parser.usage = f"visplay {subcommand} --config NAME [--config NAME ...] [--KEY=VALUE ...]"
        parser._action_groups.sort(key=lambda group: str(group.title).startswith("Customize"))  # the trainer's are last
        if subcommand == "fit":
            text = "Continue the last run of this name from its last checkpoint, or start one where there is none."
            parser.add_argument("--auto_resume", action="store_true", help=text)
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; a whole number that no float holds ends the command as any other bad value does."""
        try:
            super().parse_arguments(parser, args)
        except OverflowError as error:
            parser.error(f"a number is too large: {error}")

    def before_instantiate_classes(self) -> None:
        """Have ``~`` at the beginning of a path mean the home that a shell would mean, and null be what may be null."""
        expand_home(self.config)
        self.parser.add_instantiator(construct, object)

    def instantiate_classes(self) -> None:
        """Build what is configured; where a constructor rejects a value, the command ends with its words."""
        try:
            super().instantiate_classes()
        except (MisconfigurationException, ValueError) as error:
            self.parser.exit(2, f"error: {self.words(_first(error))}\n")

    def words(self, error: Exception) -> str:
        """What an error says, in one line, with the key of the setting that it is about where that is known."""
        settings = self.settings()
        if isinstance(error, OSError) and error.filename and error.strerror:
            return describe_os_error(error, settings)
        return name_key(" ".join(str(error).split()), settings)

    def settings(self) -> dict[str, Any]:
        """All settings of the subcommand, by dotted key."""
        dumped = self._parser(self.subcommand).dump(self.config[self.subcommand], skip_none=False, skip_validation=True)
        return flatten(yaml.safe_load(dumped))

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback | None]) -> Trainer:
        """Build the trainer; whatever it rejects is a setting."""
        _reject_second(config["callbacks"] or [])
        if self.subcommand == "fit" and str(config["precision"]) in ("16-true", "bf16-true", "64", "64-true"):
            raise ValueError(
                f"trainer.precision: {config['precision']!r}, but weights that learn must be float32, or updates of "
                "1e-6 are lost; give bf16-mixed to compute in bfloat16, or 32-true"
            )
        try:
            trainer = super()._instantiate_trainer(config, _in_use(config, callbacks))
        except (ImportError, MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
            about = [name for name in config if re.search(rf"\b{name}\b", str(error))]
            about += [name for name, value in config.items() if isinstance(value, str) and value in str(error).split()]
            named = f"trainer.{about[0]}: got {config[about[0]]!r}: " if about else "trainer: "
            raise MisconfigurationException(f"{named}{error}") from error
        if trainer.loggers and not any(map(_has_run_directory, trainer.loggers)):
            name = self.trainer_defaults["logger"]["init_args"]["name"]
            trainer.loggers.append(TensorBoardLogger(trainer.default_root_dir, name))
        trainer.loggers.sort(key=lambda logger: not _has_run_directory(logger))  # the first is who decides
        trainer.callbacks.sort(
            key=lambda callback: not isinstance(callback, SelfPlay)
        )  # others see the phase it begins
        return trainer

    def _parse_ckpt_path(self) -> None:
        """Settings come from the configuration; no checkpoint of many gigabytes is read to look for others in it."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The trainer's methods on offer."""
        arguments = {"model", "dataloaders", "datamodule"}
        fit = arguments | {"train_dataloaders", "val_dataloaders"}
        return {"fit": fit, "validate": arguments, "test": arguments}

    def fit(self, ckpt_path: str | None = None, **options: Any) -> None:
        """Train; what keeps a run from beginning ends the command with its words, later errors with a traceback.

        With ``last``, and where ``auto_resume`` finds one, the run goes on in its own directory and log.
        """
        beginning = _Beginning()
        self.trainer.callbacks.insert(0, beginning)
        config = self.config["fit"]
        with self._rejecting(beginning), ExitStack() as held:
            if self.datamodule.image_source is None and any(
                role.learns_from == "images" for role in self.model.roles.values()
            ):
                raise ValueError("data.images: null, and a Questioner asks about images; give a directory or a table")
            settings = self.settings()
            parser = self._parser("fit")
            defaults = flatten(
                yaml.safe_load(parser.dump(parser.get_defaults(), skip_none=False, skip_validation=True))
            )
            changed = changed_settings(settings, defaults)
            for callback in self.trainer.callbacks:
                if isinstance(callback, SelfPlay):
                    callback.settings = settings
                elif isinstance(callback, RunRecord):
                    callback.settings = changed
                elif isinstance(callback, Dashboard):
                    callback.settings = {name: value for name, (value, _) in changed.items()}
            ckpt_path = begin_run(self.trainer, ckpt_path, settings, held, auto_resume=config["auto_resume"])
            with RankWatch(self.trainer, beginning.how_it_goes_on) as beginning.watch, beginning.noting():
                self.trainer.fit(ckpt_path=ckpt_path, **options)

    def validate(self, ckpt_path: str | None = None, **options: Any) -> None:
        """Evaluate the model on the benchmarks to validate on; ``Evaluation`` shows the scores, not the trainer."""
        evaluation = next(callback for callback in self.trainer.callbacks if isinstance(callback, Evaluation))
        evaluation.name = "base" if ckpt_path is None else "reasoner"
        with self._rejecting():
            if self.model.validated is None:
                raise ValueError(f"model: a {type(self.model).__name__} alone does not answer; validate a Reasoner")
            ckpt_path = find_checkpoint(self.trainer, ckpt_path)
            with RankWatch(self.trainer):
                self.trainer.validate(ckpt_path=ckpt_path, **options | {"verbose": False})

    def test(self, model: GRPOModule, datamodule: SelfPlayData, ckpt_path: str | None = None, **options: Any) -> None:
        """Evaluate one model after the other on all benchmarks, and compare them."""
        with self._rejecting(), RankWatch(self.trainer):
            evaluate_models(self.trainer, model, datamodule, ckpt_path)

    @contextmanager
    def _rejecting(self, beginning: _Beginning | None = None) -> Iterator[None]:
        """End the command with the words of what cannot be done, unless it was being done already.

        That nothing is left to learn from is no fault of a run, whenever it turns out.
        """
        try:
            yield
        except (NothingUsableError, TooFewQuestionsError) as error:
            self.parser.exit(2, f"error: {self.words(error)}\n")
        except (JudgeUnavailableError, MisconfigurationException, OSError, ValueError) as error:
            if beginning is not None and beginning.over:
                raise
            self.parser.exit(2, f"error: {self.words(error)}\n")


class _Beginning(Callback):
    """Knows when a fit has all it needs, and how it is continued from then on."""

    over = False
    watch: RankWatch

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See that what each rank has found on the disk is the same."""
        check_alike("ckpt_path", trainer.ckpt_path, "all ranks must go on from the same checkpoint")
        check_shared(run_directory(trainer), "trainer.default_root_dir")

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.over, self.directory = True, run_directory(trainer)
        if trainer.world_size > 1 and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.watch.answer)  # Lightning's would broadcast amid other collectives

    on_train_start = on_sanity_check_start

    def how_it_goes_on(self) -> str:
        """Where the run writes, and from which checkpoint it goes on; nothing before it has begun."""
        if not self.over:
            return ""
        found = sorted(self.directory.glob("checkpoints/*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
        last = f"goes on from {found[-1].name}" if found else "begins anew: there is no checkpoint in it now"
        resume = f"Once the cause is mended, the same command with --auto_resume {last}."
        return f"The run writes in {self.directory}. {resume}"

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note with an error that ends the run how it goes on."""
        try:
            yield
        except Exception as error:
            if words := self.how_it_goes_on():
                error.add_note(words)
            raise


class _Unloaded(VisPlayCLI):
    """Builds what is configured but the trainer, which may be another machine's, and runs nothing."""

    def instantiate_classes(self) -> None:
        """Build model and callbacks."""
        try:
            built = self.parser.instantiate_classes(self.config)
        except ValueError as error:
            self.parser.exit(2, f"error: {self.words(_first(error))}\n")
        built = built[self.subcommand]
        self.model, self.data, self.trainer = built.model, built.data, built.trainer
        given = [built[key] for key in self._parser(self.subcommand).callback_keys]
        self.callbacks = [*(built.trainer.callbacks or []), *_in_use(built.trainer, given)]

    def _run_subcommand(self, subcommand: str) -> None:
        return


@contextmanager
def _ending_at_sigterm() -> Iterator[None]:
    """Have SIGTERM end the command wherever it is, with the code that a shell gives to that; the trainer's is 0."""

    def end(signum: int, _: Any) -> None:
        raise SystemExit(128 + signum)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _in_use(config: Mapping[str, Any], callbacks: Sequence[Callback | None]) -> list[Callback]:
    """The callbacks with keys of their own that the trainer's settings leave in use."""
    left_out: tuple[type, ...] = () if config["enable_checkpointing"] in (None, True) else (Checkpoint,)
    listed = config["callbacks"] or []
    if config["enable_progress_bar"] is False or any(isinstance(callback, ProgressBar) for callback in listed):
        left_out += (ProgressBar,)
    return [callback for callback in callbacks if callback is not None and not isinstance(callback, left_out)]


def _has_run_directory(logger: Logger) -> bool:
    """Whether a logger writes into a directory that is of one run alone."""
    return isinstance(logger, CSVLogger | TensorBoardLogger)


def _reject_second(listed: Callback | Sequence[Callback]) -> None:
    """See that no callback is listed that a run has already.

    Raises:
        ValueError: One is, under a key of its own.
    """
    own: dict[str, type] = {"rollout": RolloutEngine, "self_play": SelfPlay, "evaluation": Evaluation}
    own |= {key: kind for key, (kind, _) in CALLBACKS.items() if key not in ("progress", "checkpoint")}
    for callback in listed if isinstance(listed, Sequence) else [listed]:
        for key, kind in own.items():
            if isinstance(callback, kind):
                name = type(callback).__name__
                raise ValueError(f"trainer.callbacks: a run has one {name}, whose key is {key!r}; set it there")


def _first(error: Exception) -> Exception:
    """The first rejection among the errors that led to this one."""
    first, cause = error, error.__cause__ or error.__context__
    while cause is not None:
        first = cause if isinstance(cause, ValueError) else first
        cause = cause.__cause__ or cause.__context__
    return first


def _epochs(iterations: int) -> int:
    """One epoch is one phase; an iteration has two. ``SelfPlay`` corrects it for a role alone and for repeats."""
    return 2 * iterations


def _run_name(arguments: Sequence[str]) -> str:
    """What the directory of a run is called: the first configuration's file without its suffix."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-c", "--config", action="append", default=[])
    return Path([*parser.parse_known_args(arguments)[0].config, "visplay"][0]).stem


def instantiate(arguments: Sequence[str]) -> VisPlayCLI:
    """Build what the arguments of ``fit`` configure: ``model``, ``data``, ``callbacks``, the ``trainer``'s settings."""
    return run(["fit", *arguments], _Unloaded)


def run(arguments: Sequence[str] | None = None, kind: type[VisPlayCLI] = VisPlayCLI) -> VisPlayCLI:
    """Parse the arguments and run the subcommand they name."""
    set_up_log(logging.ERROR if rank_zero_only.rank else logging.INFO)  # what all ranks see, rank 0 says
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*", category=FutureWarning)
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")  # the process's own are not for it
    # A path such as ${model.init_args.seed} in a file starts at its top level; one in a default is relative to itself.
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True, add_print_completion_argument=True)
    run_logger = {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": {
            "save_dir": "${...default_root_dir}",
            "name": _run_name(sys.argv[1:] if arguments is None else arguments),
        },
    }
    with _ending_at_sigterm():
        return kind(
            GRPOModule,
            SelfPlayData,
            trainer_defaults={**TRAINER_DEFAULTS, "logger": run_logger},
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_class=SuggestingParser,
            parser_kwargs={"parser_mode": "omegaconf+", "prog": "visplay"},
            save_config_kwargs={"overwrite": True},
            args=arguments,
        )
