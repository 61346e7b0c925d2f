"""The question families of the shapes world: how each is posed and, from its text and a scene, solved."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from visplay.tiny.grid import CELLS, COLUMNS, ROWS
from visplay.tiny.shapes.nouns import PATTERN, pick_noun, read_noun
from visplay.tiny.shapes.shape_scenes import COLOURS, KINDS, SEEN, Scene
from visplay.tiny.world import CHOICE, NOTHING, NUMERICAL, SHORT, YES_OR_NO, Family, Solution

_EQUAL = "equally many"
_LETTERS = "ABCDE"


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
    return f"Which {word} is in {_pick_cell(scene, rng)}? {_options([*names, NOTHING], rng)}"


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
    return Solution(f"{shape.colour} {shape.kind}", shape.size) if shape else Solution(NOTHING, "none")


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
    truth = NOTHING if shape is None else shape.colour if attribute == "colour" else shape.kind
    return truth, truth


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text.replace("NOUN", PATTERN).replace("CELL", f"([{COLUMNS}][{ROWS}])"))


_LINE = rf"(row [{ROWS}]|column [{COLUMNS}])"
_MANY = "How many NOUN are there"
_WHICH = r"Which (?:are there more of|(shape|colour) is in CELL)\?((?: [A-E]\) [a-z ]+?)+)"
_PAIRS = tuple(f"{colour} {kind}" for colour, kind in SEEN)
_FEW, _YES_NO = tuple("01234"), ("yes", "no")
FAMILIES = (
    Family("existence", YES_OR_NO, _pattern(r"Is there a NOUN\?"), _pose_existence, _solve_existence, _YES_NO),
    Family("content", SHORT, _pattern(r"What is in CELL\?"), _pose_content, _solve_content, (*_PAIRS, NOTHING)),
    Family("count_one", NUMERICAL, _pattern(rf"{_MANY}\?"), _pose_count(1), _solve_count, _FEW),
    Family("count_two", NUMERICAL, _pattern(rf"{_MANY}\?"), _pose_count(2), _solve_count, _FEW),
    Family("line", NUMERICAL, _pattern(rf"How many shapes are in {_LINE}\?"), _pose_line, _solve_line, _FEW),
    Family("more", YES_OR_NO, _pattern(r"Are there more NOUN than NOUN\?"), _pose_more, _solve_more, _YES_NO),
    Family("sum", NUMERICAL, _pattern(r"How many NOUN and NOUN are there in total\?"), _pose_sum, _solve_sum, _FEW),
    Family("choice", CHOICE, _pattern(_WHICH), _pose_choice, _solve_choice, tuple("ABC")),
)
