"""What commands share that build the run which ``fit`` would be, and have its models sample without learning."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from lightning import Callback, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException

from visplay.callbacks.engines.engine import RolloutEngine
from visplay.callbacks.records.replaying import SILENT
from visplay.commands.settings.configuration import COMPUTING
from visplay.data.draws import NothingUsableError
from visplay.modules.visplay import VisPlay

T = TypeVar("T")


def build_self_play(command: str, arguments: Sequence[str], instantiate: Callable[[Sequence[str]], Any]) -> Any:
    """Build what the arguments of ``fit`` configure; the process ends with words where that is no ``VisPlay``.

    Args:
        command: What the message calls the command.
        arguments: Those of ``fit``.
        instantiate: Builds what they configure.
    """
    built = instantiate(arguments)
    if not isinstance(built.model, VisPlay):
        raise SystemExit(f"error: model: {command} needs a VisPlay, got {type(built.model).__name__}")
    return built


def callback_of(built: Any, kind: type[T]) -> T:
    """The callback of a class that every run has."""
    return next(each for each in built.callbacks if isinstance(each, kind))


def quiet_trainer(built: Any, *callbacks: Callback, **settings: Any) -> Trainer:
    """A trainer that computes as the run's does, with its engine, and writes and shows nothing of its own."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    advice = "max_epochs|callbacks used to create|predict_dataloader.*does not have many workers"
    warnings.filterwarnings("ignore", message=f".*({advice}|isinstance.treespec, LeafSpec)")
    own = {name: built.trainer[name] for name in (*COMPUTING, "num_nodes")} | dict(SILENT)
    engine = callback_of(built, RolloutEngine)  # type: ignore[type-abstract]
    return Trainer(**own | settings, callbacks=[engine, *callbacks])


@contextmanager
def ending_with_words(built: Any) -> Iterator[None]:
    """End the process with the words of what cannot be done."""
    try:
        yield
    except (MisconfigurationException, NothingUsableError, OSError, ValueError) as error:
        raise SystemExit(f"error: {built.words(error)}") from error
