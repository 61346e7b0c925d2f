"""``visplay replay``: a recorded step is done again, and compared with what it did then, bit by bit."""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf
from rich.table import Table
from yaml import YAMLError

from visplay.callbacks.records.replaying import SILENT, Replay, replay_judging, replay_update
from visplay.callbacks.records.step_record import CONFIG, FACTS, StepRecord, read_record, record_name
from visplay.callbacks.records.step_trace import describe_process
from visplay.callbacks.records.trace_comparison import Comparison, compare_traces
from visplay.commands.settings.configuration import COMPUTING, build, read_config
from visplay.modules.training import GRPOModule
from visplay.terminal import Terminal, set_up_log


def run(arguments: Sequence[str]) -> None:
    """Replay; the process ends with 1 where anything differs, and with an error's words where nothing can be replayed.

    Args:
        arguments: What follows the command's name.
    """
    options = _parse(arguments)
    set_up_log()
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*", category=FutureWarning)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    try:
        directory = find_record(Path(options.source), options.step, options.phase)
        record = read_record(directory, weights=not options.judge_only)
        replay = _replay(record, [str(directory / CONFIG), *options.config], judge_only=options.judge_only)
    except (OSError, ValueError, argparse.ArgumentError, MisconfigurationException, YAMLError) as error:
        raise SystemExit(f"error: {error}") from error
    rows = compare_traces(record.trace, replay.trace, judging=options.judge_only)
    _show(directory, record, replay, rows)
    if replay.error is not None or record.changed or any(row.differing for row in rows):
        raise SystemExit(1)


def find_record(source: Path, step: int | None, phase: int | None) -> Path:
    """The directory of a record: the one given, or that of a step of a run.

    Raises:
        FileNotFoundError: There is none.
        ValueError: The step is not said, or was recorded in several phases.
    """
    if (source / FACTS).is_file():
        return source
    records = sorted(path.name for path in (source / "records").glob("phase-*-step-*"))
    if not records:
        raise FileNotFoundError(
            f"source: {str(source)!r} is no record, and no directory of a run with records; `visplay fit "
            "--record.steps=all` writes them"
        )
    if step is None:
        raise ValueError(f"step: say which one; {str(source)!r} has {', '.join(records)}")
    pattern = record_name("*" if phase is None else f"{phase:02d}", step)
    names = [name for name in records if fnmatchcase(name, pattern)]
    if not names:
        wanted = f"step {step}" if phase is None else f"step {step} of phase {phase}"
        raise FileNotFoundError(f"step: {wanted} was not recorded; {str(source)!r} has {', '.join(records)}")
    if len(names) > 1:
        raise ValueError(f"phase: step {step} was recorded in several, give one: {', '.join(names)}")
    return source / "records" / names[0]


def _replay(record: StepRecord, configs: Sequence[str], *, judge_only: bool) -> Replay:
    if not Path(configs[0]).is_file():
        raise FileNotFoundError(f"config: the record of a run that was started in Python has none, no {configs[0]!r}")
    config = read_config(configs)
    module = build(GRPOModule, config.model)  # type: ignore[type-abstract]
    if judge_only:
        return replay_judging(record, module)
    if record.environment["threads"] != torch.get_num_threads():
        torch.set_num_threads(record.environment["threads"])  # another number adds up in another order
    return replay_update(record, module, _build_trainer(config.trainer))


def _build_trainer(settings: Any) -> Trainer:
    """A trainer that computes as the run's did, and shows and writes nothing."""
    given = {name: settings[name] for name in COMPUTING if name in settings} | dict(SILENT)
    return build(Trainer, OmegaConf.create({"class_path": "lightning.pytorch.Trainer", "init_args": given}))


def _show(directory: Path, record: StepRecord, replay: Replay, rows: Sequence[Comparison]) -> None:
    phase, terminal = record.state.facts["phase"], Terminal()
    where = f"{phase['role']}, iteration {phase['iteration']}, step {phase['step'] + 1}"
    terminal.print(f"{directory}: {where}", soft_wrap=True)
    table = Table("", "compared", "differ")
    for row in rows:
        table.add_row(row.what, str(row.compared), str(row.differing))
    terminal.print(table)
    for row in rows:
        if row.first is not None:
            terminal.print(f"{row.what}: {row.first}", soft_wrap=True)
    recorded, here = record.environment, describe_process()
    other = [f"{name} {recorded.get(name)}, here {here[name]}" for name in here if here[name] != recorded.get(name)]
    if other:
        terminal.print(f"recorded with {'; '.join(other)}", soft_wrap=True)
    if record.changed:
        terminal.print(f"not as they were written: {', '.join(record.changed)}", soft_wrap=True)
    if replay.error is not None:
        terminal.print(f"the step ended early: {type(replay.error).__name__}: {replay.error}", soft_wrap=True)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="visplay replay", description=__doc__)
    parser.add_argument("source", type=os.path.expanduser, help="directory of a run, or of a record")
    parser.add_argument("--step", type=int, help="of the phase, counted from 1")
    parser.add_argument("--phase", type=int, help="of the run, counted from 0; needed where several recorded the step")
    parser.add_argument(
        "--judge-only", action="store_true", help="without weights and without an update: votes, grades and rewards"
    )
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        help="further settings over those of the run, such as another model.init_args.vlm.init_args.path",
    )
    return parser.parse_args(arguments)
