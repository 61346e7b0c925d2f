"""The question families of the small world: how each is posed and, from its text and a scene, solved.

Solving is for the cold start and for evaluation alone; self-play never sees a scene.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from visplay.tiny.nouns import PATTERN, pick_noun, read_noun
from visplay.tiny.world import CELLS, COLOURS, COLUMNS, KINDS, ROWS, SEEN, Scene

_NOTHING = "nothing"
_EQUAL = "equally many"
_LETTERS = "ABCDE"


@dataclass(frozen=True)
class Solution:
    """The truth about a question.

    Args:
        answer: The short answer.
        listing: What is written down on the way to it, mostly the cells that matter.
    """

    answer: str
    listing: str


@dataclass(frozen=True)
class Family:
    """One kind of question.

    Args:
        name: Name of the family.
        kind: The question type that the Questioner states.
        pattern: What the text of such a question matches in full.
        pose: Writes a question about a scene.
        work_out: Solves a question from the parts of its text; None when it has no answer.
        guesses: What a careless annotator draws an answer from.
    """

    name: str
    kind: str
    pattern: re.Pattern[str]
    pose: Callable[[Scene, np.random.Generator], str]
    work_out: Callable[[Scene, tuple[str, ...]], Solution | None]
    guesses: tuple[str, ...]


@dataclass(frozen=True)
class Posed:
    """A question with its truth."""

    family: Family
    text: str
    solution: Solution


def solve(scene: Scene, question_text: str) -> str | None:
    """Answer a question about a scene from its text.

    Returns:
        The answer, or None when the text is none of the families' or has no answer.

    Example:
        >>> from visplay.tiny.world import Shape
        >>> scene = Scene((Shape("a1", "small", "red", "circle"), Shape("c2", "large", "red", "circle")))
        >>> solve(scene, "How many red circles are there?"), solve(scene, "What is in c2?"), solve(scene, "Why?")
        ('2', 'red circle', None)
    """
    posed = work_out(scene, question_text)
    return None if posed is None else posed.solution.answer


def family_of(question_text: str) -> Family | None:
    """The family whose grammar a question follows, or None."""
    text = question_text.strip()
    return next((family for family in FAMILIES if family.pattern.fullmatch(text)), None)


def work_out(scene: Scene, question_text: str) -> Posed | None:
    """Solve a question, with what is written down on the way; None as in ``solve``."""
    text = question_text.strip()
    family = family_of(text)
    match = family.pattern.fullmatch(text) if family else None
    if family is None or match is None:
        return None
    solution = family.work_out(scene, match.groups())
    return None if solution is None else Posed(family, text, solution)


def pose(scene: Scene, rng: np.random.Generator) -> Posed:
    """Write a question of a random family about a scene, with its truth."""
    family = FAMILIES[rng.choice(len(FAMILIES), p=_FREQUENCIES)]
    posed = work_out(scene, family.pose(scene, rng))
    assert posed is not None, "a family writes questions of its own grammar"
    return posed


def _pose_existence(scene: Scene, rng: np.random.Generator) -> str:
    noun = pick_noun(scene, rng, 2)
    if noun.cells(scene) and rng.random() < 0.3:
        noun = pick_noun(scene, rng, 2)
    return f"Is there a {noun.singular}?"


def _pose_content(scene: Scene, rng: np.random.Generator) -> str:
    return f"What is in {_pick_cell(scene, rng)}?"


def _pose_count(attributes: int) -> Callable[[Scene, np.random.Generator], str]:
    return lambda scene, rng: f"How many {pick_noun(scene, rng, attributes).plural} are there?"


def _pose_line(scene: Scene, rng: np.random.Generator) -> str:
    names = [f"row {row}" for row in ROWS] + [f"column {column}" for column in COLUMNS]
    return f"How many shapes are in {names[rng.integers(len(names))]}?"


def _pose_more(scene: Scene, rng: np.random.Generator) -> str:
    first, second = _pick_two(scene, rng, 1)
    return f"Are there more {first} than {second}?"


def _pose_sum(scene: Scene, rng: np.random.Generator) -> str:
    first, second = _pick_two(scene, rng, 2)
    return f"How many {first} and {second} are there in total?"


def _pose_choice(scene: Scene, rng: np.random.Generator) -> str:
    if rng.random() < 0.5:
        first, second = _pick_two(scene, rng, 1)
        return f"Which are there more of? {_options([first, second, _EQUAL], rng)}"
    word, names = (("shape", KINDS), ("colour", tuple(COLOURS)))[rng.integers(2)]
    return f"Which {word} is in {_pick_cell(scene, rng)}? {_options([*names, _NOTHING], rng)}"


def _pick_cell(scene: Scene, rng: np.random.Generator) -> str:
    if rng.random() < 0.75:
        return scene.shapes[rng.integers(len(scene.shapes))].cell
    return CELLS[rng.integers(len(CELLS))]


def _pick_two(scene: Scene, rng: np.random.Generator, attributes: int) -> tuple[str, str]:
    first = second = pick_noun(scene, rng, attributes)
    while first == second:
        second = pick_noun(scene, rng, attributes)
    return first.plural, second.plural


def _options(names: list[str], rng: np.random.Generator) -> str:
    order = rng.permutation(len(names))
    return " ".join(f"{letter}) {names[index]}" for letter, index in zip(_LETTERS, order, strict=False))


def _list(cells: tuple[str, ...]) -> str:
    return " ".join(cells) or "none"


def _solve_existence(scene: Scene, parts: tuple[str, ...]) -> Solution:
    cells = read_noun(parts[0]).cells(scene)
    return Solution("yes" if cells else "no", _list(cells))


def _solve_content(scene: Scene, parts: tuple[str, ...]) -> Solution:
    shape = scene.at(parts[0])
    return Solution(f"{shape.colour} {shape.kind}", shape.size) if shape else Solution(_NOTHING, "none")


def _solve_count(scene: Scene, parts: tuple[str, ...]) -> Solution:
    cells = read_noun(parts[0]).cells(scene)
    return Solution(str(len(cells)), _list(cells))


def _solve_line(scene: Scene, parts: tuple[str, ...]) -> Solution:
    cells = tuple(shape.cell for shape in scene.shapes if parts[0].split()[1] in shape.cell)
    return Solution(str(len(cells)), _list(cells))


def _solve_more(scene: Scene, parts: tuple[str, ...]) -> Solution:
    first, second = (read_noun(part).cells(scene) for part in parts)
    return Solution("yes" if len(first) > len(second) else "no", f"{_list(first)} than {_list(second)}")


def _solve_sum(scene: Scene, parts: tuple[str, ...]) -> Solution:
    first, second = (read_noun(part).cells(scene) for part in parts)
    return Solution(str(len(first) + len(second)), f"{_list(first)} and {_list(second)}")


def _solve_choice(scene: Scene, parts: tuple[str, ...]) -> Solution | None:
    attribute, cell, options = parts
    letters = {name.strip(): letter for letter, name in re.findall(r"([A-E])\) ([a-z ]+)", options)}
    truth, listing = _compare(scene, letters) if cell is None else _attribute(scene, attribute, cell)
    return Solution(letters[truth], listing) if truth in letters else None


def _compare(scene: Scene, names: dict[str, str]) -> tuple[str, str]:
    """The more frequent of two options that are noun phrases, and the cells of both."""
    phrases = [name for name in names if name != _EQUAL and re.fullmatch(PATTERN, name)]
    if len(phrases) != 2:
        return "", ""
    first, second = (read_noun(phrase).cells(scene) for phrase in phrases)
    truth = _EQUAL if len(first) == len(second) else phrases[len(second) > len(first)]
    return truth, f"{_list(first)} than {_list(second)}"


def _attribute(scene: Scene, attribute: str, cell: str) -> tuple[str, str]:
    """Colour or kind of the shape in a cell, twice: the truth and what is written down."""
    shape = scene.at(cell)
    truth = _NOTHING if shape is None else shape.colour if attribute == "colour" else shape.kind
    return truth, truth


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text.replace("NOUN", PATTERN).replace("CELL", f"([{COLUMNS}][{ROWS}])"))


_NUMERICAL, _YES_OR_NO, _SHORT, _CHOICE = "numerical", "yes or no", "short answer", "multiple choice"
_LINE = rf"(row [{ROWS}]|column [{COLUMNS}])"
_MANY = "How many NOUN are there"
_WHICH = r"Which (?:are there more of|(shape|colour) is in CELL)\?((?: [A-E]\) [a-z ]+?)+)"
_PAIRS = tuple(f"{colour} {kind}" for colour, kind in SEEN)
_FEW, _YES_NO = tuple("01234"), ("yes", "no")
FAMILIES = (
    Family("existence", _YES_OR_NO, _pattern(r"Is there a NOUN\?"), _pose_existence, _solve_existence, _YES_NO),
    Family("content", _SHORT, _pattern(r"What is in CELL\?"), _pose_content, _solve_content, (*_PAIRS, _NOTHING)),
    Family("count_one", _NUMERICAL, _pattern(rf"{_MANY}\?"), _pose_count(1), _solve_count, _FEW),
    Family("count_two", _NUMERICAL, _pattern(rf"{_MANY}\?"), _pose_count(2), _solve_count, _FEW),
    Family("line", _NUMERICAL, _pattern(rf"How many shapes are in {_LINE}\?"), _pose_line, _solve_line, _FEW),
    Family("more", _YES_OR_NO, _pattern(r"Are there more NOUN than NOUN\?"), _pose_more, _solve_more, _YES_NO),
    Family("sum", _NUMERICAL, _pattern(r"How many NOUN and NOUN are there in total\?"), _pose_sum, _solve_sum, _FEW),
    Family("choice", _CHOICE, _pattern(_WHICH), _pose_choice, _solve_choice, tuple("ABC")),
)
_FREQUENCIES = np.full(len(FAMILIES), 1 / len(FAMILIES))
