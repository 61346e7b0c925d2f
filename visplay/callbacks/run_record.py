"""What a run is, how each of its processes ended, and what came of each phase, in the run's own directory."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from visplay.callbacks.engines.engine import RolloutEngine
from visplay.callbacks.engines.vllm import VLLMRollout
from visplay.callbacks.logging import run_directory
from visplay.callbacks.self_play import SelfPlay
from visplay.clock import Clock
from visplay.data.files import json_line, json_number, replacing
from visplay.data.fingerprints import fingerprint_data
from visplay.modules.policy.vlm import VLM
from visplay.modules.training import GRPOModule
from visplay.provenance import describe_machine, describe_software
from visplay.ranks import from_first
from visplay.viewing.run_files import PHASES_FILE, RUN_FILE

logger = logging.getLogger(__name__)

_TERMINATED = 143
"""Code of a command that SIGTERM has ended."""


class RunRecord(Callback):
    """Writes ``run.json`` and ``phases.jsonl`` into the run's directory, each whole or as it was.

    ``run.json`` has the seed, the settings that differ from the defaults, the weights that the run began with, its
    data, and an entry of ``processes`` for every process that worked on it: command, versions, machine, the checkpoint
    that it went on from, the settings that were others before, and how it ended; the configuration is in
    ``config.yaml``. ``phases.jsonl`` has a line for every phase that is over. A run that goes on from a checkpoint goes
    on with the phases that were over there. It comes after ``SelfPlay``, and before what writes checkpoints.

    Attributes:
        settings: Those that differ from the defaults by dotted name, each with its default.
    """

    def __init__(self) -> None:
        self.settings: Mapping[str, tuple[Any, Any]] = {}
        self.phases: list[dict[str, Any]] = []
        self._run: dict[str, Any] = {}
        self._settings_before: Mapping[str, Any] = {}
        self._started_at = ""
        self._seconds: dict[str, float] = {}  # of the phase under way, before the clock's last start
        self._clock, self._clock_started = Clock(), dict[str, float]()
        self._directory = Path()
        self._validation_began = 0.0

    def on_load_checkpoint(self, trainer: Trainer, pl_module: GRPOModule, checkpoint: dict[str, Any]) -> None:
        """Note the settings that the checkpoint was written with."""
        self._settings_before = checkpoint.get("settings", {})

    def on_fit_start(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Write both files, once all that the run needs is there."""
        self._clock, self._directory = pl_module.clock, run_directory(trainer)
        path, weights = self._directory / RUN_FILE, {}
        if new := from_first(lambda: not path.is_file()):
            policies = [module for module in pl_module.modules() if isinstance(module, VLM)]
            weights = {
                vlm.name: {"path": vlm.path, "revision": vlm.revision, "fingerprint": vlm.fingerprint()}
                for vlm in policies
            }
        if not trainer.is_global_zero:
            return
        data = fingerprint_data(trainer.datamodule)
        if new:
            self._run = {"seed": pl_module.seed, "settings": self.settings, "weights": weights, "data": data}
            self._run["processes"] = []
        else:
            self._run = _go_on(path, data)
        self._run["processes"].append(self._describe_process(trainer))
        self._write()

    def on_train_start(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Begin to count the time of a phase; one that is continued goes on."""
        if pl_module.phase.step == 0:
            self._seconds, self._started_at = {}, _now()
        self._clock_started = dict(self._clock.total)

    def on_validation_start(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Begin to count its time."""
        self._validation_began = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Count its time, but not that of the base's, which comes before the first phase."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._seconds["validation"] = time.perf_counter() - self._validation_began

    def on_train_epoch_end(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Write the line of the phase, which is in the checkpoint that is written next as well."""
        self_play, phase = _self_play(trainer), pl_module.phase
        history, examples = self_play.history, pl_module.role.learns_from == "examples"
        self.phases.append(
            {
                "phase": self_play.phases_done - 1,
                "iteration": phase.iteration,
                "role": phase.role,
                "attempt": phase.attempt,
                "decision": self_play.decision,
                "steps": phase.step,
                "started_at": self._started_at,
                "ended_at": _now(),
                "seconds": {stage: round(seconds, 3) for stage, seconds in self._count_seconds().items()},
                "tokens": _count_tokens(history, self_play.statistics if examples else {}),
                "last_reward": json_number(history[-1]["reward"]) if history else None,
                "steps_with_skipped_updates": sum(step.get("skipped_updates", 0) > 0 for step in history),
                "dataset": _describe_dataset(self_play, self._directory) if examples else None,
                "scores": {name: json_number(score) for name, score in pl_module.scores.items()},
                "checkpoint": _name_checkpoint(trainer, self._directory),
            }
        )
        self._seconds, self._started_at, self._clock_started = {}, _now(), dict(self._clock.total)
        self._write()

    def on_fit_end(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Write that the run is over."""
        self._end("finished")

    def on_exception(self, trainer: Trainer, pl_module: GRPOModule, exception: BaseException) -> None:
        """Write why the process ends."""
        try:
            self._end(_why(exception))
        except OSError as error:  # the disk may be what is at fault, and the first error is the one to be told
            logger.warning("%s: why the process ends could not be written: %s", RUN_FILE, error)

    def state_dict(self) -> dict[str, Any]:
        """The phases that are over, and the time that the one under way has taken."""
        return {"phases": list(self.phases), "started_at": self._started_at, "seconds": self._count_seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Undo ``state_dict``."""
        self.phases = list(state_dict["phases"])
        self._started_at, self._seconds = state_dict["started_at"], dict(state_dict["seconds"])

    def _count_seconds(self) -> dict[str, float]:
        """Seconds of the phase under way, by stage."""
        before, counted = self._clock_started, dict(self._seconds)
        for stage, total in self._clock.total.items():
            if total > before.get(stage, 0.0):
                counted[stage] = counted.get(stage, 0.0) + total - before.get(stage, 0.0)
        return counted

    def _describe_process(self, trainer: Trainer) -> dict[str, Any]:
        """What is known of this process before the first step."""
        engine = next((c for c in trainer.callbacks if isinstance(c, RolloutEngine)), None)
        now, before = _self_play(trainer).settings, self._settings_before
        names = sorted(before.keys() | now.keys()) if before else []
        return {
            "started_at": _now(),
            "process": os.getpid(),
            "command": sys.argv,
            "software": describe_software(with_vllm=isinstance(engine, VLLMRollout)),
            "machine": describe_machine(trainer.strategy.root_device),
            "continued_from": None if trainer.ckpt_path is None else _relative(trainer.ckpt_path, self._directory),
            "settings_changed": {n: [before.get(n), now.get(n)] for n in names if before.get(n) != now.get(n)},
            "ended_at": None,
            "exit": None,
        }

    def _end(self, reason: str) -> None:
        if self._run:
            self._run["processes"][-1] |= {"ended_at": _now(), "exit": reason}
            self._write()

    def _write(self) -> None:
        if not self._run:  # of another rank
            return
        with replacing(self._directory / PHASES_FILE) as file:
            file.writelines(map(json_line, self.phases))
        with replacing(self._directory / RUN_FILE) as file:
            file.write(f"{json.dumps(self._run, indent=2, default=str)}\n".encode())


def _go_on(path: Path, data: Mapping[str, Any]) -> dict[str, Any]:
    """What is on record of a run that is continued; its last process is dead, if it did not say how it ended."""
    run = json.loads(path.read_bytes())
    if changed := sorted(n for n in run["data"].keys() | data.keys() if run["data"].get(n) != data.get(n)):
        logger.warning("data: %s: not the same as when the run began (%s)", ", ".join(changed), path)
    if run["processes"][-1]["exit"] is None:
        run["processes"][-1]["exit"] = "killed"
    return run


def _why(exception: BaseException) -> str:
    """Why a process ends, in words."""
    if isinstance(exception, SIGTERMException) or (isinstance(exception, SystemExit) and exception.code == _TERMINATED):
        return "interrupted by SIGTERM"
    if isinstance(exception, KeyboardInterrupt):
        return "interrupted by SIGINT"
    return f"error: {type(exception).__name__}: {exception}"


def _name_checkpoint(trainer: Trainer, directory: Path) -> str | None:
    """The file that ``ModelCheckpoint`` writes at the end of this epoch, before it does."""
    for writer in trainer.checkpoint_callbacks:
        if isinstance(writer, ModelCheckpoint) and (trainer.current_epoch + 1) % (writer.every_n_epochs or 1) == 0:
            known = {"epoch": torch.tensor(trainer.current_epoch), "step": torch.tensor(trainer.global_step)}
            return _relative(writer.format_checkpoint_name({**trainer.callback_metrics, **known}), directory)
    return None


def _describe_dataset(self_play: SelfPlay, directory: Path) -> dict[str, Any] | None:
    """The generated data set that the phase learned from; None where it learned from others."""
    if self_play.dataset is None:
        return None
    statistics = self_play.statistics
    return {
        "path": _relative(self_play.dataset, directory),
        "sha256": self_play.dataset_sha256,
        "kept": statistics.get("kept"),
        "rejected": {n.removeprefix("rejected/"): v for n, v in statistics.items() if n.startswith("rejected/")},
    }


def _count_tokens(history: Sequence[Mapping[str, float]], curation: Mapping[str, float]) -> dict[str, int]:
    """Completion tokens of a phase, by stage: of its steps, and of the data set that was generated for it."""
    tokens = Counter[str]()
    for statistics in (curation, *history):
        tokens.update({name: round(n) for name, n in statistics.items() if name.endswith("_tokens")})
    tokens.pop("completion_tokens", None)  # a mean
    return {name.removesuffix("_tokens"): count for name, count in sorted(tokens.items())}


def _relative(path: str | Path, directory: Path) -> str:
    """A path as it is below a directory, so that the directory can be moved; others in full."""
    path, directory = Path(path).resolve(), directory.resolve()
    return (path.relative_to(directory) if path.is_relative_to(directory) else path).as_posix()


def _self_play(trainer: Trainer) -> SelfPlay:
    return next(callback for callback in trainer.callbacks if isinstance(callback, SelfPlay))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
