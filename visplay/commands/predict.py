"""``visplay predict``: images in, question-answer pairs with confidence out, without training."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from visplay.callbacks.curation.curation import Curation
from visplay.callbacks.self_play import SelfPlay
from visplay.callbacks.teacher import Teacher
from visplay.commands.without_learning import build_self_play, callback_of, ending_with_words, quiet_trainer
from visplay.data.locking import locked
from visplay.data_engine.predictor import LOCK_FILE, Prediction, Predictor, Written
from visplay.modules.policy.weights.model_source import check_checkpoint
from visplay.terminal import Terminal


def run(arguments: Sequence[str], instantiate: Callable[[Sequence[str]], Any]) -> None:
    """Write what the models of a run ask about its images, and how they answer; an error ends it with its words.

    Args:
        arguments: What follows the command's name.
        instantiate: Builds what the arguments of ``fit`` configure.
    """
    options, rest = _parse(arguments)
    built = build_self_play("predict", rest, instantiate)
    ckpt_path, start = built.config["fit"]["ckpt_path"], time.monotonic()
    with ending_with_words(built):
        if any(isinstance(each, Teacher) for each in built.callbacks):
            raise ValueError("teacher: a teacher votes while a run learns; give teacher=null")
        if ckpt_path is not None:
            check_checkpoint(ckpt_path, "ckpt_path")
        curation = _curation(callback_of(built, SelfPlay), options)
        predictor = Predictor(curation, options.output, _prediction(options))
        trainer = quiet_trainer(built, predictor)
        with locked(options.output / LOCK_FILE) if trainer.is_global_zero else nullcontext():
            trainer.predict(
                built.model,
                datamodule=built.data,
                return_predictions=False,
                ckpt_path=ckpt_path,
                weights_only=True,
            )
    if trainer.is_global_zero:
        votes = (predictor.curation.voting or built.model.reasoner.voting).votes
        _show(predictor.written, votes, time.monotonic() - start)


def _curation(self_play: SelfPlay, options: argparse.Namespace) -> Curation:
    given = {"questions_per_image": options.questions_per_image, "votes_per_round": options.adaptive_votes}
    return replace(self_play.curation, **{name: value for name, value in given.items() if value is not None})


def _prediction(options: argparse.Namespace) -> Prediction:
    return Prediction(
        options.max_images,
        options.duplicates,
        options.duplicate_distance,
        options.embed_images,
        not options.no_blind,
    )


def _show(written: Written, votes: int, seconds: float) -> None:
    tally, terminal = written.tally, Terminal()
    saved = tally.saved(votes)
    table = Table("", "")
    rows = {
        "images": str(tally.images),
        "unusable": str(tally.unusable),
        "look like one before them": "not looked for" if written.duplicates is None else str(len(written.duplicates)),
        "questions": str(tally.asked),
        "voted on": str(tally.voted),
        "kept": str(tally.kept),
        "answers sampled": str(tally.votes),
        "answers saved": f"{saved} ({saved / max(votes * tally.voted, 1):.1%})",
        "seconds": f"{seconds:.1f}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    terminal.print(table)
    terminal.print(f"{written.directory}: README.md is its data card", soft_wrap=True)


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="visplay predict",
        description=f"{__doc__} Other arguments are those of `visplay fit`, --ckpt_path among them.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--output",
        type=lambda text: Path(os.path.expanduser(text)),
        required=True,
        metavar="DIR",
        help="where to write; what the same settings began there goes on",
    )
    parser.add_argument("--questions-per-image", type=_positive, help="in place of self_play.curation's")
    parser.add_argument("--max-images", type=_positive, help="ask about the first ones alone")
    parser.add_argument(
        "--adaptive-votes",
        type=_positive,
        nargs="?",
        const=4,
        metavar="N",
        help="sample N answers at a time (4), and none that can change neither answer nor verdict",
    )
    parser.add_argument(
        "--duplicates",
        choices=("report", "skip", "off"),
        default="report",
        help="list images that look like one before them (report), leave them out, or do not look for them",
    )
    parser.add_argument(
        "--duplicate-distance", type=int, default=4, help="most bits of 64 in which perceptual hashes differ (4)"
    )
    parser.add_argument("--embed-images", action="store_true", help="write the images' bytes too")
    parser.add_argument("--no-blind", action="store_true", help="do not have questions answered without the image")
    return parser.parse_known_args(arguments)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} must be at least 1")
    return number
