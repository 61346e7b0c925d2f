"""Which run a command continues, from which checkpoint, and with which settings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml
from lightning import Trainer

from visplay.callbacks.iterations.phase_sources import check_dataset
from visplay.callbacks.logging import cut_log, run_directory
from visplay.callbacks.run_record import RUN_FILE
from visplay.callbacks.self_play import SelfPlay
from visplay.commands.run_directory import check_idle, check_unused, owned, starting
from visplay.data.files import remove_unfinished
from visplay.modules.policy.weights.model_source import check_checkpoint, read_checkpoint
from visplay.provenance import flatten

logger = logging.getLogger(__name__)

MAY_CHANGE = (
    "self_play.iterations",
    "self_play.offload",
    "rollout.*",
    "*.tokens_per_micro_batch",
    "*.gradient_checkpointing",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy*",
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
    "dashboard*",
    "samples*",
    "sink*",
    "summary*",
    "checkpoint*",
    "step_checkpoint*",
    "ckpt_path",
    "auto_resume",
    "weights_only",
)
"""Settings, as patterns of their names, that a run may be continued with other values of; docs/reliability.md."""


def begin_run(
    trainer: Trainer, ckpt_path: str | None, settings: Mapping[str, Any], held: ExitStack, *, auto_resume: bool = False
) -> str | None:
    """Find what a run goes on from, and take its directory before anything in it is changed.

    Args:
        trainer: Its logger is told which run goes on.
        ckpt_path: A checkpoint, "last", or null for a new run.
        settings: The present ones, by dotted name.
        held: Has the lock of the run's directory afterwards.
        auto_resume: Whether the last run goes on from its last checkpoint; one that was begun with the same settings,
            and has none yet, begins anew in its directory, with the stages that are done.

    Returns:
        The file to go on from, or None.

    Raises:
        FileExistsError: A new run's directory holds one.
        FileNotFoundError: There is no checkpoint.
        LockedError: Another process works on the run.
        ValueError: The checkpoint is none that the run can go on from, or a setting would make another run of it.
    """
    if auto_resume and ckpt_path not in (None, "last"):
        raise ValueError(f"auto_resume: looks for the checkpoint itself, got ckpt_path={ckpt_path!r}")
    first = trainer.is_global_zero  # which starts the other ranks when it has the lock
    with starting(trainer.default_root_dir) if first else nullcontext():
        if first and (auto_resume or ckpt_path == "last"):
            check_idle(list_runs(trainer))
        if auto_resume:
            ckpt_path = "last" if list_checkpoints(trainer) else None
        goes_on, ckpt_path = ckpt_path == "last", find_checkpoint(trainer, ckpt_path, check_continues)
        log: Mapping[str, int] = {}
        if goes_on and ckpt_path is not None:
            log = _go_on(trainer, ckpt_path, settings)
        elif auto_resume and (begun := _find_begun(trainer, settings)) is not None:
            _take_version(trainer, begun)
        directory = run_directory(trainer)
        if first:
            held.enter_context(owned(directory))
            if not (goes_on or auto_resume):
                check_unused(directory)
            elif ckpt_path is None or directory == Path(ckpt_path).parent.parent:
                cut_log(str(directory), log)
                remove_unfinished(directory)
    return ckpt_path


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


def _go_on(trainer: Trainer, ckpt_path: str, settings: Mapping[str, Any]) -> Mapping[str, int]:
    """Continue a run as the same one, in its directory; where its log ended when the checkpoint was written."""
    checkpoint, run = read_checkpoint(ckpt_path), Path(ckpt_path).parent.parent
    before = checkpoint.get("settings") or settings
    changed = _changed(before, settings)
    if rejected := _rejected(changed):
        values = "; ".join(f"{name}: {before.get(name)!r} before, {settings.get(name)!r} now" for name in rejected)
        raise ValueError(
            f"ckpt_path: the run was started with other settings, and would be another one with these: {values}. Give "
            f"them as they were, or the file, {ckpt_path!r}, to start a new run from there"
        )
    if any(name.startswith("rollout.") for name in changed):
        logger.warning("rollout: another engine, or another setting of it, may draw other samples from the same seeds")
    if run.parent == _root(trainer):
        _take_version(trainer, run)
    return checkpoint.get("log", {})


def _find_begun(trainer: Trainer, settings: Mapping[str, Any]) -> Path | None:
    """The last run that was begun with these settings, where it has no checkpoint yet."""
    for run in sorted(list_runs(trainer), key=_began, reverse=True):
        config = run / "config.yaml"
        if (run / RUN_FILE).is_file() and config.is_file():
            before = flatten(yaml.safe_load(config.read_bytes()))
            return None if _rejected(_changed(before, settings)) else run
    return None


def _began(run: Path) -> float:
    file = run / RUN_FILE
    return file.stat().st_mtime if file.is_file() else 0.0


def _take_version(trainer: Trainer, run: Path) -> None:
    """Have the logger write into a run's directory; one that was made by hand takes it as ``version``."""
    if hasattr(trainer.logger, "_version"):
        trainer.logger._version = run.name


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of the settings that are others now."""
    return [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]


def _rejected(changed: Sequence[str]) -> list[str]:
    """Those among changed settings that would make another run."""
    return [name for name in changed if not any(fnmatchcase(name, pattern) for pattern in MAY_CHANGE)]


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
