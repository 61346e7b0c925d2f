"""What the stages of the cold start teach: turns about a scene, and what is to be written in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from visplay.prompts import Template
from visplay.tiny import ANSWER, ASK, FROM_DESCRIPTION
from visplay.tiny.cold_start.batches import Turn
from visplay.tiny.grid import CELLS
from visplay.tiny.world import NOTHING, Posed, Solution, World

Lesson = Callable[[World, Any, np.random.Generator], list[Turn]]
"""Turns about a scene of a world."""

CAPTION = "List."
"""What a model is told in the captions of the cold start."""

_TURNS = 8
_EMPTY_CELLS = 4
_SEARCHES = 10


@dataclass(frozen=True)
class Carelessness:
    """How careless the annotators are whom the last stage imitates.

    Args:
        listed_fraction: Fraction of answers that list the cells that matter first and are true.
        careless_fraction: Fraction of the other answers that are guesses.
        systematic: Whether a guess is the same for all questions of a family, so that a vote does not mend it; else it
            is random.

    Raises:
        ValueError: A fraction is not in [0, 1].
    """

    listed_fraction: float = 0.35
    careless_fraction: float = 0.8
    systematic: bool = False

    def __post_init__(self) -> None:
        for name in ("listed_fraction", "careless_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: need a fraction in [0, 1], got {getattr(self, name)}")


def perceive(world: World, scene: Any, rng: np.random.Generator) -> list[Turn]:
    """A caption and the content of cells, about as many empty as not: where things are, before anything is counted."""
    full = list(world.full_cells(scene))
    empty = [cell for cell in CELLS if cell not in full]
    cells = full + [empty[index] for index in rng.permutation(len(empty))[:_EMPTY_CELLS]]
    answers = [_answer(world.solved(scene, f"What is in {cell}?"), listed=False) for cell in cells]
    return [_caption(world, scene), *answers]


def search(world: World, scene: Any, rng: np.random.Generator) -> list[Turn]:
    """Nothing but listing the cells that fit: many answers about one image, so that searching is learned quickly."""
    return _search(world, scene, rng, world.search_families[-1])


def search_simply(world: World, scene: Any, rng: np.random.Generator) -> list[Turn]:
    """Listing the cells that fit one attribute, which comes before two at once."""
    return _search(world, scene, rng, world.search_families[0])


def study(world: World, scene: Any, rng: np.random.Generator) -> list[Turn]:
    """Both roles, every answer true, half of the answers listed first; a caption keeps the gradient towards seeing."""
    turns = [_ask(world, scene, rng), _caption(world, scene)]
    return turns + [
        _answer(world.pose(scene, rng), listed=bool(rng.random() < 0.5)) for _ in range(_TURNS - len(turns))
    ]


def relax(
    world: World, scene: Any, rng: np.random.Generator, carelessness: Carelessness = Carelessness()
) -> list[Turn]:
    """Both roles, most answers at once and most of those guessed.

    Real annotators are careless, and a real base VLM imitates them: it can do better than it usually does. That is
    the head-room that self-play is to find.
    """
    turns = [_ask(world, scene, rng)]
    return turns + [_answer_loosely(world.pose(scene, rng), rng, carelessness) for _ in range(_TURNS - len(turns))]


def describe(
    world: World, scene: Any, rng: np.random.Generator, carelessness: Carelessness = Carelessness()
) -> list[Turn]:
    """``relax`` for a Describer: answers begin with a description, and half of the turns are without the image.

    Half of the descriptions leave half of the scene out, whatever the answer is: to answer well does not yet mean to
    describe well. An answer from a description goes by what is in it.
    """
    turns = [_ask(world, scene, rng)]
    while len(turns) < _TURNS:
        posed = world.pose(scene, rng)
        cells = [cell for cell in world.full_cells(scene) if rng.random() < 0.5]
        described = scene if rng.random() < 0.5 else world.part_of(scene, cells)
        description = world.caption(described) or NOTHING
        if rng.random() < 0.5:
            turn = _answer_loosely(posed, rng, carelessness)
            turns.append(replace(turn, target=f"<description>{description}</description>{turn.target}"))
        elif (told := world.work_out(described, posed.text)) is not None:
            turn = _answer_loosely(told, rng, carelessness)
            turns.append(replace(turn, template=FROM_DESCRIPTION, description=description))
    return turns


def _search(world: World, scene: Any, rng: np.random.Generator, names: tuple[str, ...]) -> list[Turn]:
    families = [family for family in world.families if family.name in names]
    posed = [families[rng.integers(len(families))].pose(scene, rng) for _ in range(_SEARCHES)]
    return [_caption(world, scene)] + [_answer(world.solved(scene, text), listed=True) for text in posed]


def _caption(world: World, scene: Any) -> Turn:
    return Turn(Template(user=CAPTION), world.caption(scene))


def _ask(world: World, scene: Any, rng: np.random.Generator) -> Turn:
    return Turn(ASK, question_target(world.pose(scene, rng)))


def _answer(posed: Posed, *, listed: bool) -> Turn:
    return Turn(ANSWER, answer_target(posed.solution, listed=listed), posed.text)


def _answer_loosely(posed: Posed, rng: np.random.Generator, carelessness: Carelessness) -> Turn:
    if rng.random() < carelessness.listed_fraction:
        return _answer(posed, listed=True)
    if rng.random() < carelessness.careless_fraction:
        guesses = posed.family.guesses
        guess = guesses[0 if carelessness.systematic else rng.integers(len(guesses))]
        posed = replace(posed, solution=replace(posed.solution, answer=guess))
    return _answer(posed, listed=False)


def question_target(posed: Posed) -> str:
    """The Questioner's reply: type, question, and the answer it believes in.

    Example:
        ``<type>numerical</type><question>How many red circles are there?</question><answer>3</answer>``
    """
    answer = posed.solution.answer
    return f"<type>{posed.family.kind}</type><question>{posed.text}</question><answer>{answer}</answer>"


def answer_target(solution: Solution, *, listed: bool) -> str:
    r"""The Reasoner's reply, at once or after what it listed.

    Example:
        >>> answer_target(Solution("2", "a1 c2"), listed=True)
        '<think>a1 c2</think>\\boxed{2}'
    """
    thought = f"<think>{solution.listing}</think>" if listed else ""
    return f"{thought}\\boxed{{{solution.answer}}}"
