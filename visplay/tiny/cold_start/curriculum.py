"""What the stages of the cold start teach: turns about a scene, and what is to be written in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from visplay.prompts import Template
from visplay.tiny import ANSWER, ASK
from visplay.tiny.cold_start.batches import Turn
from visplay.tiny.questions import FAMILIES, Posed, Solution, pose, work_out
from visplay.tiny.world import CELLS, Scene

Lesson = Callable[[Scene, np.random.Generator], list[Turn]]

CAPTION = "List."
"""What a model is told in the captions of the cold start."""

LISTED_FRACTION = 0.35
CARELESS_FRACTION = 0.8
_TURNS = 8
_EMPTY_CELLS = 4
_SEARCHES = 10
_SEARCHING = ("existence", "count_one", "count_two", "line")


def perceive(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """A caption and the content of cells, about as many empty as not: where things are, before anything is counted."""
    full = [shape.cell for shape in scene.shapes]
    empty = [cell for cell in CELLS if cell not in full]
    turns = [_caption(scene)]
    for cell in full + [empty[index] for index in rng.permutation(len(empty))[:_EMPTY_CELLS]]:
        posed = work_out(scene, f"What is in {cell}?")
        assert posed is not None, "the question is of the families' grammar"
        turns.append(_answer(posed, listed=False))
    return turns


def search(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """Nothing but listing the cells that fit: many answers about one image, so that searching is learned quickly."""
    return [_caption(scene)] + [_answer(_pose_of(_SEARCHING, scene, rng), listed=True) for _ in range(_SEARCHES)]


def search_simply(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """Listing the cells that fit one attribute, which comes before two at once."""
    return [_caption(scene)] + [_answer(_pose_of(("count_one",), scene, rng), listed=True) for _ in range(_SEARCHES)]


def study(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """Both roles, every answer true, half of the answers listed first; a caption keeps the gradient towards seeing."""
    turns = [_ask(scene, rng), _caption(scene)]
    return turns + [_answer(pose(scene, rng), listed=bool(rng.random() < 0.5)) for _ in range(_TURNS - len(turns))]


def relax(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """Both roles, most answers at once and most of those at random.

    Real annotators are careless, and a real base VLM imitates them: it can do better than it usually does. That is
    the head-room that self-play is to find.
    """
    return [_ask(scene, rng)] + [_answer_loosely(pose(scene, rng), rng) for _ in range(_TURNS - 1)]


def _pose_of(families: tuple[str, ...], scene: Scene, rng: np.random.Generator) -> Posed:
    chosen = [family for family in FAMILIES if family.name in families]
    posed = work_out(scene, chosen[rng.integers(len(chosen))].pose(scene, rng))
    assert posed is not None, "a family writes questions of its own grammar"
    return posed


def _caption(scene: Scene) -> Turn:
    return Turn(Template(user=CAPTION), caption_target(scene))


def _ask(scene: Scene, rng: np.random.Generator) -> Turn:
    return Turn(ASK, question_target(pose(scene, rng)))


def _answer(posed: Posed, *, listed: bool) -> Turn:
    return Turn(ANSWER, answer_target(posed.solution, listed=listed), posed.text)


def _answer_loosely(posed: Posed, rng: np.random.Generator) -> Turn:
    if rng.random() < LISTED_FRACTION:
        return _answer(posed, listed=True)
    if rng.random() < CARELESS_FRACTION:
        guess = posed.family.guesses[rng.integers(len(posed.family.guesses))]
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


def caption_target(scene: Scene) -> str:
    """Every cell that is not empty with what it holds, in raster order."""
    return " ".join(f"{shape.cell} {shape.size} {shape.colour} {shape.kind}" for shape in scene.shapes)
