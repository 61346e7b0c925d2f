"""LightningCLI for VisPlay: the configuration is the signature of the constructors."""

from __future__ import annotations

import argparse
import difflib
import importlib
import inspect
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import datasets
from jsonargparse import set_parsing_settings
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from rich.logging import RichHandler
from transformers.utils.logging import disable_progress_bar

from visplay.callbacks.engines.engine import RolloutEngine
from visplay.callbacks.evaluation import Evaluation
from visplay.callbacks.self_play import SelfPlay
from visplay.commands.evaluate import evaluate_models
from visplay.data.module import SelfPlayData
from visplay.judge import JudgeUnavailableError
from visplay.modules.training import GRPOModule

_UNKNOWN = re.compile(
    r"(?:[Oo]ption|[Kk]ey) ['\"]([\w.]+)['\"] is not|accept option '([\w.]+)'|[Uu]nrecognized arguments: --([\w.]+)"
)
_CLASS = re.compile(r"class_path '([\w.]+)'")


class SuggestingParser(LightningArgumentParser):
    """Names the nearest known key when one is unknown."""

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
            known |= set(inspect.signature(_import(path)).parameters)
        close = difflib.get_close_matches(unknown, sorted(known), n=1)
        return f"unknown key {unknown!r}: did you mean {close[0]!r}?" if close else ""


def _destinations(parser: argparse.ArgumentParser) -> set[str]:
    """Every key of a parser and of its subcommands."""
    found = {action.dest for action in parser._actions}
    for action in parser._actions:
        if isinstance(action.choices, dict):
            found |= {dest for sub in action.choices.values() for dest in _destinations(sub)}
    return found


def _import(path: str) -> type:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


class VisPlayCLI(LightningCLI):
    """``fit``, ``validate`` and ``test`` with keys of their own for the rollout engine, self-play and evaluation."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add keys of their own, so that an overlay can change one without replacing the callbacks."""
        parser.add_lightning_class_args(RolloutEngine, "rollout", subclass_mode=True)
        parser.add_lightning_class_args(SelfPlay, "self_play")
        parser.add_lightning_class_args(Evaluation, "evaluation")
        parser.link_arguments("self_play.iterations", "trainer.max_epochs", compute_fn=_epochs)

    def instantiate_classes(self) -> None:
        """Build what is configured; where a constructor rejects a value, the command ends with its words."""
        try:
            super().instantiate_classes()
        except (MisconfigurationException, ValueError) as error:
            self.parser.exit(2, f"error: {_first(error)}\n")

    def _parse_ckpt_path(self) -> None:
        """Settings come from the configuration; no checkpoint of many gigabytes is read to look for others in it."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The trainer's methods on offer."""
        arguments = {"model", "dataloaders", "datamodule"}
        fit = arguments | {"train_dataloaders", "val_dataloaders"}
        return {"fit": fit, "validate": arguments, "test": arguments}

    def fit(self, **options: Any) -> None:
        """Train; what keeps a run from beginning ends the command with its words, later faults with a traceback."""
        beginning = _Beginning()
        self.trainer.callbacks.append(beginning)
        with self._refusing(beginning):
            self.trainer.fit(**options)

    def validate(self, **options: Any) -> None:
        """Evaluate the model on the benchmarks to validate on; ``Evaluation`` shows the scores, not the trainer."""
        evaluation = next(callback for callback in self.trainer.callbacks if isinstance(callback, Evaluation))
        evaluation.name = "base" if options.get("ckpt_path") is None else "reasoner"
        with self._refusing():
            if self.model.validated is None:
                raise ValueError(f"model: a {type(self.model).__name__} alone does not answer; validate a Reasoner")
            self.trainer.validate(**options | {"verbose": False})

    def test(self, model: GRPOModule, datamodule: SelfPlayData, ckpt_path: str | None = None, **options: Any) -> None:
        """Evaluate one model after the other on all benchmarks, and compare them."""
        with self._refusing():
            evaluate_models(self.trainer, model, datamodule, ckpt_path)

    @contextmanager
    def _refusing(self, beginning: _Beginning | None = None) -> Iterator[None]:
        """End the command with the words of what cannot be done, unless it was being done already."""
        try:
            yield
        except (JudgeUnavailableError, OSError, ValueError) as error:
            if beginning is not None and beginning.over:
                raise
            self.parser.exit(2, f"error: {error}\n")


class _Beginning(Callback):
    """Knows when a fit has all it needs."""

    over = False

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.over = True

    on_train_start = on_sanity_check_start


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
        self.callbacks = [built.rollout, built.self_play, *(built.trainer.callbacks or [])]

    def _run_subcommand(self, subcommand: str) -> None:
        return


def _first(error: Exception) -> Exception:
    """The first refusal among the errors that led to this one."""
    first, cause = error, error.__cause__ or error.__context__
    while cause is not None:
        first = cause if isinstance(cause, ValueError) else first
        cause = cause.__cause__ or cause.__context__
    return first


def _epochs(iterations: int) -> int:
    """One epoch is one phase; an iteration has two. ``SelfPlay`` corrects it for a role alone and for repeats."""
    return 2 * iterations


def instantiate(arguments: Sequence[str]) -> VisPlayCLI:
    """Build what the arguments of ``fit`` configure: ``model``, ``callbacks``, and the settings of the ``trainer``."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="LightningCLI's args parameter")  # the command's own are not for it
        return run(["fit", *arguments], _Unloaded)


def run(arguments: Sequence[str] | None = None, kind: type[VisPlayCLI] = VisPlayCLI) -> VisPlayCLI:
    """Parse the arguments and run the subcommand they name."""
    _set_up_terminal()
    # A path such as ${model.init_args.seed} starts at the file's own top level, not above the subcommand.
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    return kind(
        GRPOModule,
        SelfPlayData,
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


def _set_up_terminal() -> None:
    """Show this package's log; leave out what would only disturb."""
    disable_progress_bar()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*", category=FutureWarning)
    log = logging.getLogger("visplay")
    if not log.handlers:
        log.addHandler(RichHandler(show_path=False, show_level=False))
        log.setLevel(logging.INFO)
