"""``visplay play``: models ask, vote and answer about one image, side by side."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer
from PIL.Image import Image
from rich.console import Group
from rich.table import Table
from rich.text import Text

from visplay.callbacks.curation.survey import Unread
from visplay.commands.without_learning import build_self_play, ending_with_words, quiet_trainer
from visplay.data.images.decoding import load_image
from visplay.data.module import SelfPlayData
from visplay.modules.policy.vlm import VLM
from visplay.modules.policy.weights.model_source import ModelSource
from visplay.modules.visplay import VisPlay
from visplay.terminal import Terminal
from visplay.types import Question, UnlabeledImage, Vote, derive_seed
from visplay.viewing.half_blocks import half_blocks
from visplay.viewing.look_app import vote_bars

BASE = "base"
_COLUMNS, _LINES = 40, 20


@dataclass
class Played:
    """A question about the image, and what each model makes of it.

    Args:
        question: The question.
        asked_by: The model that asked, or "you".
        votes: By model; None where the question is too long for its context.
        answers: Greedy, by model; None where nothing parsed.
    """

    question: Question
    asked_by: str
    votes: dict[str, Vote | None] = field(default_factory=dict)
    answers: dict[str, str | None] = field(default_factory=dict)


class Playing(Callback):
    """Has each model ask about an image, and then each vote on all questions; its trainer has ``max_epochs: 0``.

    Args:
        image: The image.
        sources: Models by name, each as one source for every role: the Questioner's, then the Reasoner's.
        questions: Questions that each model asks.
        own: Questions that are asked besides.

    Attributes:
        played: The questions, those of ``own`` first.
        unparsed: How many questions of each model did not parse.
    """

    def __init__(
        self,
        image: UnlabeledImage,
        sources: dict[str, tuple[ModelSource, ModelSource]],
        questions: int,
        own: Sequence[str],
    ) -> None:
        self.image = image
        self.sources = sources
        self.questions = questions
        self.played = [Played(Question(text, ""), "you") for text in own]
        self.unparsed: dict[str, int] = {}

    def setup(self, trainer: Trainer, pl_module: VisPlay, stage: str) -> None:
        """Give the trainer, which wants a loader, one that it never reads."""
        trainer.datamodule.phase_batches = Unread

    def on_fit_start(self, trainer: Trainer, pl_module: VisPlay) -> None:
        """Ask with one model after the other, then vote."""
        seed = derive_seed(pl_module.seed, "play")
        questioner, reasoner = pl_module.questioner, pl_module.reasoner
        configured = reasoner.vlm
        voters: dict[str, VLM] = {}
        for name, (asks, answers) in self.sources.items():
            voters[name] = answers.load(configured)  # in CPU memory, but while it is sampled from
            asker = voters[name] if asks == answers else asks.load(configured)
            questioner.adopt(asker, pl_module.clock)
            asker.name = f"{name} questioner"
            if self.questions:
                asked = questioner.ask(questioner.rollout([self.image], self.questions, seed))[0]
                found = list(dict.fromkeys(each for each in asked if each is not None))
                self.unparsed[name] = asked.count(None)
                self.played += [Played(each, name) for each in found]
        for name, voter in voters.items():
            reasoner.adopt(voter, pl_module.clock)
            voter.name = f"{name} reasoner"
            (votes,) = reasoner.vote_on([self.image], [[each.question for each in self.played]], seed)
            prompts = [
                voter.encode(str(n), reasoner.template, self.image.image, question=each.question.text)
                for n, each in enumerate(self.played)
            ]
            greedy = reasoner.sample_one(prompts, reasoner.sampling(1, seed, temperature=0.0))
            for n, (each, vote) in enumerate(zip(self.played, votes, strict=True)):
                each.votes[name] = vote
                each.answers[name] = reasoner.parse(greedy[str(n)]) if str(n) in greedy else None


def run(arguments: Sequence[str], instantiate: Callable[[Sequence[str]], Any]) -> None:
    """Play; an error ends the process with its message.

    Args:
        arguments: What follows the command's name.
        instantiate: Builds what the arguments of ``fit`` configure.
    """
    options, rest = _parse(arguments)
    built = build_self_play("play", rest, instantiate)
    try:
        image = load_image(Path(options.image))
        sources = {name: source for text in options.model or [BASE] for name, source in [_source(text)]}
        for both in sources.values():
            for source in both:
                source.check()
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {' '.join(str(error).split())}") from error
    playing = Playing(UnlabeledImage(Path(options.image).name, image), sources, options.questions, options.question)
    with ending_with_words(built):
        quiet_trainer(built, playing, max_epochs=0).fit(built.model, datamodule=SelfPlayData())
    if options.json:
        told = {"questions": [asdict(each) for each in playing.played], "unparsed": playing.unparsed}
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
    else:
        _show(image, playing)


def _show(image: Image, playing: Playing) -> None:
    terminal = Terminal()
    if terminal.color_system is not None:
        terminal.print(half_blocks(image, _COLUMNS, _LINES))
    table = Table("question", *playing.sources, show_lines=True)
    for each in playing.played:
        asked = Group(Text(each.question.text, "bold"), Text(f"asked by {each.asked_by}", "dim"))
        table.add_row(asked, *(_cell(each, name) for name in playing.sources))
    terminal.print(table)
    for name, count in playing.unparsed.items():
        if count:
            terminal.print(f"{name}: {count} of {playing.questions} questions did not parse", soft_wrap=True)


def _cell(each: Played, name: str) -> Group:
    vote = each.votes[name]
    greedy = Text(f"greedy answer: {each.answers[name]}")
    if vote is None:
        return Group(Text("too long for the context"), greedy)
    return Group(*vote_bars(vote.counts, 10), Text(f"confidence {vote.confidence:.2f}"), greedy)


def _source(text: str) -> tuple[str, tuple[ModelSource, ModelSource]]:
    """A name and the models of both roles, as ``--model`` gives them."""
    name, separator, path = text.partition("=")
    if not separator:
        name, path = (text, "") if text == BASE else (Path(text).stem, text)
    if path.endswith(".ckpt"):
        return name, (ModelSource(path, "questioner"), ModelSource(path, "reasoner"))
    source = ModelSource(path or None)
    return name, (source, source)


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="visplay play",
        description=f"{__doc__} Other arguments are those of `visplay fit`.",
        allow_abbrev=False,
    )
    parser.add_argument("image", metavar="IMAGE", help="an image file")
    parser.add_argument(
        "--model",
        action="append",
        metavar="[NAME=]SOURCE",
        help="'base' is the configuration's own model; a checkpoint *.ckpt of a run, of which both roles play; or a "
        "Hugging Face directory. May be repeated (base)",
    )
    parser.add_argument("--questions", type=int, default=4, help="questions that each model asks (4)")
    parser.add_argument("--question", action="append", default=[], help="a question of yours; may be repeated")
    parser.add_argument("--json", action="store_true", help="print all as JSON")
    options, rest = parser.parse_known_args(arguments)
    if options.questions < 0 or not (options.questions or options.question):
        parser.error(f"argument --questions: {options.questions} must be at least 1, or 0 with --question")
    return options, rest
