"""LightningCLI for VisPlay: the configuration is the signature of the constructors, and states what differs."""

from __future__ import annotations

import argparse
import difflib
import inspect
import logging
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from fnmatch import fnmatchcase
from pathlib import Path
from pydoc import locate
from typing import Any

import yaml
from jsonargparse import set_parsing_settings
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from visplay.callbacks.checkpoints import StepCheckpoint
from visplay.callbacks.curator import TooFewQuestionsError
from visplay.callbacks.engines.engine import RolloutEngine
from visplay.callbacks.evaluation import Evaluation
from visplay.callbacks.health import Health
from visplay.callbacks.logging import cut_log
from visplay.callbacks.records.recorder import Recorder
from visplay.callbacks.run_record import RunRecord
from visplay.callbacks.samples import SampleLogger
from visplay.callbacks.self_play import SelfPlay, check_dataset
from visplay.callbacks.summary import Summary
from visplay.checking import ModelCheck
from visplay.commands.compare import evaluate_models
from visplay.commands.configuration import TRAINER_DEFAULTS, construct, expand_home
from visplay.commands.run_directory import check_idle, check_unused, owned, starting
from visplay.data.draws import NothingUsableError
from visplay.data.module import SelfPlayData
from visplay.foreign_text import visible
from visplay.judge import JudgeUnavailableError
from visplay.modules.policy.model_source import check_checkpoint, read_checkpoint
from visplay.modules.training import GRPOModule
from visplay.terminal import set_up_log

logger = logging.getLogger(__name__)

CALLBACKS: Mapping[str, tuple[type[Callback], Mapping[str, Any]]] = {
    "check": (ModelCheck, {"class_path": "visplay.checking.ModelCheck"}),
    "record": (Recorder, {"class_path": "visplay.callbacks.Recorder"}),  # before health, which may change the policy
    "health": (Health, {"class_path": "visplay.callbacks.Health"}),
    "progress": (ProgressBar, {"class_path": "visplay.callbacks.PhaseProgress"}),
    "run_record": (RunRecord, {"class_path": "visplay.callbacks.RunRecord"}),
    "samples": (SampleLogger, {"class_path": "visplay.callbacks.SampleLogger"}),
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

MAY_CHANGE = (
    "self_play.iterations",
    "self_play.offload",
    "rollout.*",
    "*.tokens_per_micro_batch",
    "*.gradient_checkpointing",
    "trainer.max_epochs",
    "trainer.default_root_dir",
    "trainer.logger*",
    "trainer.log_every_n_steps",
    "trainer.enable_*",
    "trainer.num_sanity_val_steps",
    "evaluation.directory",
    "progress*",
    "run_record*",
    "record*",
    "samples*",
    "summary*",
    "checkpoint*",
    "step_checkpoint*",
    "ckpt_path",
    "auto_resume",
    "weights_only",
)
"""Settings, as patterns of their names, that a run may be continued with other values of; docs/reliability.md."""

_UNKNOWN = re.compile(
    r"(?:[Oo]ption|[Kk]ey) ['\"]([\w.]+)['\"] is not|accept option '([\w.]+)'|[Uu]nrecognized arguments: --([\w.]+)"
)
_CLASS = re.compile(r"class_path '([\w.]+)'")


class SuggestingParser(LightningArgumentParser):
    """Names the nearest known key when one is unknown."""

    def exit(self, status: int = 0, message: str | None = None) -> None:
        """Exit with words in which control characters are visible, as they may quote a file or a table."""
        super().exit(status, None if message is None else visible(message, "\n"))

    def error(self, message: str, ex: Exception | None = None) -> None:
        """Exit with the message and, for an unknown key, the nearest known one."""
        unknown = dict.fromkeys(name for found in _UNKNOWN.findall(message) for name in found if name)
        hints = [hint for name in unknown if (hint := self._nearest(name, message))]
        super().error("\n".join([message, *hints]), ex)

    def _nearest(self, unknown: str, message: str) -> str:
        """The nearest among the parser's keys and the arguments of the classes that the message names."""
        depth = unknown.count(".") + 1
        known = {".".join(dest.split(".")[-depth:]) for dest in _destinations(self)}
        for path in _CLASS.findall(message):
            known |= set(inspect.signature(locate(path)).parameters)  # type: ignore[arg-type]
        close = difflib.get_close_matches(unknown, sorted(known), n=1)
        return f"unknown key {unknown!r}: did you mean {close[0]!r}?" if close else ""


def _destinations(parser: argparse.ArgumentParser) -> set[str]:
    """Every key of a parser and of its subcommands."""
    found = {action.dest for action in parser._actions}
    for action in parser._actions:
        if isinstance(action.choices, dict):
            found |= {dest for sub in action.choices.values() for dest in _destinations(sub)}
    return found


class VisPlayCLI(LightningCLI):
    """``fit``, ``validate`` and ``test``.

    The rollout engine, self-play, evaluation and the callbacks of every run have top-level keys: an overlay changes one
    without replacing the others, ``null`` switches one of ``CALLBACKS`` off, and what ``trainer.callbacks`` lists is
    added to them. Only a progress bar listed there takes the place of ``progress``, as a trainer has one. Lightning's
    own switches ``trainer.enable_checkpointing`` and ``trainer.enable_progress_bar`` work too.
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
        if subcommand == "fit":
            text = "Continue the last run of this name from its last checkpoint, or start one where there is none."
            parser.add_argument("--auto_resume", action="store_true", help=text)
        return parser

    def before_instantiate_classes(self) -> None:
        """Have ``~`` at the beginning of a path mean the home that a shell would mean, and null be what may be null."""
        expand_home(self.config)
        self.parser.add_instantiator(construct, object)

    def instantiate_classes(self) -> None:
        """Build what is configured; where a constructor rejects a value, the command ends with its words."""
        try:
            super().instantiate_classes()
        except (MisconfigurationException, ValueError) as error:
            self.parser.exit(2, f"error: {_first(error)}\n")

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback | None]) -> Trainer:
        trainer = super()._instantiate_trainer(config, _in_use(config, callbacks))
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
        self.trainer.callbacks.append(beginning)
        config = self.config["fit"]
        with self._rejecting(beginning), ExitStack() as held:
            settings = _flatten(yaml.safe_load(self._parser("fit").dump(config, skip_none=False)))
            next(c for c in self.trainer.callbacks if isinstance(c, SelfPlay)).settings = settings
            ckpt_path = self._begin(ckpt_path, config["auto_resume"], settings, held)
            with _saying_how_it_goes_on(self.trainer, beginning):
                self.trainer.fit(ckpt_path=ckpt_path, **options)

    def _begin(
        self, ckpt_path: str | None, auto_resume: bool, settings: Mapping[str, Any], held: ExitStack
    ) -> str | None:
        """The file to go on from, and ``held`` has the lock of the run's directory before anything in it is changed."""
        if auto_resume and ckpt_path not in (None, "last"):
            raise ValueError(f"auto_resume: looks for the checkpoint itself, got ckpt_path={ckpt_path!r}")
        trainer = self.trainer
        first = trainer.is_global_zero  # which starts the other ranks when it has the lock
        with starting(trainer.default_root_dir) if first else nullcontext():
            if first and (auto_resume or ckpt_path == "last"):
                check_idle(list_runs(trainer))
            if auto_resume:
                ckpt_path = "last" if list_checkpoints(trainer) else None
            goes_on, ckpt_path = ckpt_path == "last", find_checkpoint(trainer, ckpt_path, check_continues)
            log = go_on(trainer, ckpt_path, settings) if goes_on and ckpt_path is not None else {}
            directory = Path(trainer.log_dir or trainer.default_root_dir)
            if first:
                held.enter_context(owned(directory))
                if not (goes_on or auto_resume):
                    check_unused(directory)
                elif ckpt_path is None or directory == Path(ckpt_path).parent.parent:
                    cut_log(str(directory), log)
        return ckpt_path

    def validate(self, ckpt_path: str | None = None, **options: Any) -> None:
        """Evaluate the model on the benchmarks to validate on; ``Evaluation`` shows the scores, not the trainer."""
        evaluation = next(callback for callback in self.trainer.callbacks if isinstance(callback, Evaluation))
        evaluation.name = "base" if ckpt_path is None else "reasoner"
        with self._rejecting():
            if self.model.validated is None:
                raise ValueError(f"model: a {type(self.model).__name__} alone does not answer; validate a Reasoner")
            ckpt_path = find_checkpoint(self.trainer, ckpt_path)
            self.trainer.validate(ckpt_path=ckpt_path, **options | {"verbose": False})

    def test(self, model: GRPOModule, datamodule: SelfPlayData, ckpt_path: str | None = None, **options: Any) -> None:
        """Evaluate one model after the other on all benchmarks, and compare them."""
        with self._rejecting():
            evaluate_models(self.trainer, model, datamodule, ckpt_path)

    @contextmanager
    def _rejecting(self, beginning: _Beginning | None = None) -> Iterator[None]:
        """End the command with the words of what cannot be done, unless it was being done already.

        That nothing is left to learn from is no fault of a run, whenever it turns out.
        """
        try:
            yield
        except (NothingUsableError, TooFewQuestionsError) as error:
            self.parser.exit(2, f"error: {' '.join(str(error).split())}\n")
        except (JudgeUnavailableError, MisconfigurationException, OSError, ValueError) as error:
            if beginning is not None and beginning.over:
                raise
            self.parser.exit(2, f"error: {' '.join(str(error).split())}\n")


class _Beginning(Callback):
    """Knows when a fit has all it needs."""

    over = False

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.over = True

    on_train_start = on_sanity_check_start


@contextmanager
def _saying_how_it_goes_on(trainer: Trainer, beginning: _Beginning) -> Iterator[None]:
    """Note with an error that ends a run where it writes, and how it is continued."""
    try:
        yield
    except Exception as error:
        if beginning.over:
            run = Path(trainer.log_dir or trainer.default_root_dir)
            found = sorted(run.glob("checkpoints/*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
            last = f"goes on from {found[-1].name}" if found else "begins anew: there is no checkpoint in it now"
            resume = f"Once the cause is mended, the same command with --auto_resume {last}."
            error.add_note(f"The run writes in {run}. {resume}")
        raise


class _Unloaded(VisPlayCLI):
    """Builds what is configured but the trainer, which may be another machine's, and runs nothing."""

    def instantiate_classes(self) -> None:
        """Build model and callbacks."""
        try:
            built = self.parser.instantiate_classes(self.config)
        except ValueError as error:
            self.parser.exit(2, f"error: {_first(error)}\n")
        built = built[self.subcommand]
        self.model, self.trainer = built.model, built.trainer
        given = [built[key] for key in self._parser(self.subcommand).callback_keys]
        self.callbacks = [*(built.trainer.callbacks or []), *_in_use(built.trainer, given)]

    def _run_subcommand(self, subcommand: str) -> None:
        return


def find_checkpoint(
    trainer: Trainer, ckpt_path: str | None, check: Callable[[Trainer, str], None] = lambda trainer, path: None
) -> str | None:
    """The file that ``--ckpt_path`` means, known to be a whole checkpoint before any model is loaded.

    ``last`` is the one that was written last, by this or an earlier run of the same name; where that is damaged, the
    one that the same run wrote before.

    Args:
        trainer: Knows where runs write.
        ckpt_path: As it was given.
        check: Raises a ValueError where a checkpoint, although whole, is not good for what it is wanted for.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is no checkpoint of a run, or not a whole one.
    """

    def check_whole(path: str) -> None:
        check_checkpoint(path, "ckpt_path")
        check(trainer, path)

    if ckpt_path != "last":
        if ckpt_path is not None:
            check_whole(ckpt_path)
        return ckpt_path
    found = list_checkpoints(trainer)
    if not found:
        raise FileNotFoundError(
            f"ckpt_path: 'last', but no run in {str(_root(trainer))!r} has a checkpoint; give a file, or null"
        )
    of_the_run = [path for path in found if path.parent == found[0].parent]
    for path in of_the_run:
        try:
            check_whole(str(path))
            return str(path)
        except ValueError as error:
            if path == of_the_run[-1]:
                raise
            logger.warning("%s; the one before is taken", error)
    raise AssertionError("the last one is returned or raises")


def list_runs(trainer: Trainer) -> list[Path]:
    """Directories of the runs of the same name, or of the one whose version is given."""
    root, version = _root(trainer), getattr(trainer.logger, "_version", None)
    if version is None:
        return [root, *(path for path in root.glob("*") if path.is_dir())]
    return [root / (version if isinstance(version, str) else f"version_{version}")]


def list_checkpoints(trainer: Trainer) -> list[Path]:
    """The checkpoints of all runs of the same name, the one that was written last first."""
    directories = [run / "checkpoints" for run in list_runs(trainer)]
    directories += [Path(c.dirpath) for c in trainer.checkpoint_callbacks if getattr(c, "dirpath", None)]
    found = {path for directory in directories for path in directory.glob("*.ckpt")}
    return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _root(trainer: Trainer) -> Path:
    return Path(getattr(trainer.logger, "root_dir", None) or trainer.default_root_dir)


def go_on(trainer: Trainer, ckpt_path: str, settings: Mapping[str, Any]) -> Mapping[str, int]:
    """Continue a run as the same one, in its directory.

    Args:
        trainer: Its logger is told the run's version.
        ckpt_path: A checkpoint of the run.
        settings: The present ones, by dotted name.

    Returns:
        Where its log ended when the checkpoint was written, see ``log_position``.

    Raises:
        ValueError: A setting is another one that would make another run of it.
    """
    checkpoint, run = read_checkpoint(ckpt_path), Path(ckpt_path).parent.parent
    before = checkpoint.get("settings") or settings
    names = sorted(before.keys() | settings.keys())
    changed = [name for name in names if before.get(name) != settings.get(name)]
    rejected = [name for name in changed if not any(fnmatchcase(name, pattern) for pattern in MAY_CHANGE)]
    if rejected:
        values = "; ".join(f"{name}: {before.get(name)!r} before, {settings.get(name)!r} now" for name in rejected)
        raise ValueError(
            f"ckpt_path: the run was started with other settings, and would be another one with these: {values}. Give "
            f"them as they were, or the file, {ckpt_path!r}, to start a new run from there"
        )
    if any(name.startswith("rollout.") for name in changed):
        logger.warning("rollout: another engine, or another setting of it, may draw other samples from the same seeds")
    if run.parent == _root(trainer) and hasattr(trainer.logger, "_version"):
        trainer.logger._version = run.name  # a logger made by hand takes it as `version`
    return checkpoint.get("log", {})


def _flatten(settings: Any, name: str = "") -> dict[str, Any]:
    """Settings by dotted name; a list is one value."""
    if not isinstance(settings, dict) or not settings:
        return {name: settings}
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flatten(value, f"{name}.{key}" if name else str(key))
    return flat


def check_continues(trainer: Trainer, ckpt_path: str) -> None:
    """See that a run can be continued from a checkpoint.

    Raises:
        ValueError: It does not say where its run was, or its phase has learned from a data set that is not there.
    """
    self_play = next(callback for callback in trainer.callbacks if isinstance(callback, SelfPlay))
    state = read_checkpoint(ckpt_path).get("callbacks", {}).get(self_play.state_key)
    if state is None:
        raise ValueError(
            f"ckpt_path: {ckpt_path!r} holds weights alone, from which no run can be continued; export them, and give "
            "the directory as model.vlm.path"
        )
    before = SelfPlay()
    before.load_state_dict(state)
    if "generated" in before.phase.drawn:
        check_dataset(before.dataset, before.dataset_sha256)


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
    """Build what the arguments of ``fit`` configure: ``model``, ``callbacks``, and the settings of the ``trainer``."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="LightningCLI's args parameter")  # the command's own are not for it
        return run(["fit", *arguments], _Unloaded)


def run(arguments: Sequence[str] | None = None, kind: type[VisPlayCLI] = VisPlayCLI) -> VisPlayCLI:
    """Parse the arguments and run the subcommand they name."""
    set_up_log(logging.ERROR if rank_zero_only.rank else logging.INFO)  # what all ranks see, rank 0 says
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*", category=FutureWarning)
    # A path such as ${model.init_args.seed} in a file starts at its top level; one in a default is relative to itself.
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
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
            parser_kwargs={"parser_mode": "omegaconf+"},
            save_config_kwargs={"overwrite": True},
            args=arguments,
        )
