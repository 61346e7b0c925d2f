"""``visplay diagnose``: will self-play help this model on these images? In minutes, without labels, before training."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from visplay.callbacks.curation.survey import Findings, Survey
from visplay.callbacks.self_play import SelfPlay
from visplay.commands.without_learning import build_self_play, callback_of, ending_with_words, quiet_trainer
from visplay.functional.prospects import Requirements
from visplay.terminal import Terminal

WILL_NOT_HELP = 1
"""Exit code where self-play is not expected to help."""


def run(arguments: Sequence[str], instantiate: Callable[[Sequence[str]], Any]) -> None:
    """Diagnose the run that ``fit`` would be with the same arguments; end with ``WILL_NOT_HELP`` if nothing is gained.

    Args:
        arguments: What follows the command's name.
        instantiate: Builds what the arguments of ``fit`` configure.
    """
    options, rest = _parse(arguments)
    built = build_self_play("self-play", rest, instantiate)
    survey = Survey(callback_of(built, SelfPlay).curation, options.images)
    with ending_with_words(built):
        trainer = quiet_trainer(built, survey, max_epochs=0)
        trainer.fit(built.model, datamodule=built.data)
    unmet = Requirements().unmet(survey.findings.prospects)
    if trainer.is_global_zero:
        if options.json:
            told = asdict(survey.findings) | {"will_help": not unmet, "reasons": unmet}
            sys.stdout.write(json.dumps(told, indent=2) + "\n")
        else:
            _show(survey.findings, unmet)
    if unmet:
        raise SystemExit(WILL_NOT_HELP)


def _show(found: Findings, unmet: Sequence[str]) -> None:
    prospects, terminal = found.prospects, Terminal()
    table = Table("", "measured")
    rows = {
        "valid questions": f"{prospects.valid:.2f}",
        "asked before about the same image": f"{prospects.repeated:.2f}",
        "votes by tenths of confidence": " ".join(map(str, found.confidences)),
        "ties": f"{found.tied:.2f}",
        "kept by the gates": f"{prospects.kept:.2f}",
        "silver answers right (estimated)": _interval(found),
        "of those kept (estimated)": f"{prospects.kept_accuracy:.2f}",
        "single answers right (estimated)": f"{prospects.single_accuracy:.2f}",
        "silver answers given without the image": f"{prospects.blind:.2f}",
        "tokens of a question": f"{found.question_tokens:.0f}",
        "tokens of its votes": f"{found.vote_tokens:.0f}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    terminal.print(table)
    if not unmet:
        lead = f"a vote is right {prospects.head_room:.2f} more often than a single answer (estimated)"
        terminal.print(f"self-play will probably help: {lead}", soft_wrap=True)
    for reason in unmet:
        terminal.print(f"self-play will probably not help: {reason}", soft_wrap=True)


def _interval(found: Findings) -> str:
    if found.vote_accuracy is None:
        return "none has a label"
    return f"{found.vote_accuracy.value:.2f} ({found.vote_accuracy.low:.2f} to {found.vote_accuracy.high:.2f})"


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="visplay diagnose",
        description=f"{__doc__} Other arguments are those of `visplay fit`.",
        allow_abbrev=False,
    )
    parser.add_argument("--images", type=int, default=128, help="images asked about (128)")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    options, rest = parser.parse_known_args(arguments)
    if options.images < 1:
        parser.error(f"argument --images: {options.images} must be at least 1")
    return options, rest
