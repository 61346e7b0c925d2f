"""The question families of the digits world: how each is posed and, from its text and a scene, solved."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from visplay.tiny.digits.digit_scenes import Digit, DigitScene
from visplay.tiny.grid import CELLS, COLUMNS, ROWS
from visplay.tiny.world import CHOICE, NOTHING, NUMERICAL, SHORT, YES_OR_NO, Family, Solution

VALUES = tuple("0123456789")
PARITIES = ("even", "odd")
_GROUPS = (*(f"{parity} digits" for parity in PARITIES), "digits")
_NOUNS = (*(f"{value}s" for value in VALUES), *_GROUPS)
_KINDS = ("digit", *(f"{parity} digit" for parity in PARITIES))
_EXTREMES: dict[str, Callable[..., int]] = {"largest": max, "smallest": min}
_LINES = (*(f"row {row}" for row in ROWS), *(f"column {column}" for column in COLUMNS))
_EQUAL = "equally many"
_LETTERS = "ABCD"


def fits(digit: Digit, noun: str) -> bool:
    """Whether a digit is one of "7s", "even digits", "odd digits" or "digits"; singular nouns are read alike.

    Example:
        >>> fits(Digit("a1", 7, 0), "7s"), fits(Digit("a1", 7, 0), "even digits"), fits(Digit("a1", 7, 0), "digit")
        (True, False, True)
    """
    word = noun.split()[0]
    if word in PARITIES:
        return digit.value % 2 == PARITIES.index(word)
    return word.startswith("digit") or word == f"{digit.value}s"


def pick_cell(scene: DigitScene, rng: np.random.Generator) -> str:
    """Draw a cell, usually one that is not empty."""
    if rng.random() < 0.75:
        return scene.digits[rng.integers(len(scene.digits))].cell
    return CELLS[rng.integers(len(CELLS))]


def _pick_noun(scene: DigitScene, rng: np.random.Generator) -> str:
    """Draw a noun, mostly a digit and half of those one that is there."""
    if rng.random() < 0.3:
        return _GROUPS[rng.integers(len(_GROUPS))]
    if rng.random() < 0.5:
        return f"{scene.digits[rng.integers(len(scene.digits))].value}s"
    return f"{rng.integers(10)}s"


def _pick_two(pick: Callable[[], str]) -> tuple[str, str]:
    first = second = pick()
    while first == second:
        second = pick()
    return first, second


def _pose_existence(scene: DigitScene, rng: np.random.Generator) -> str:
    return f"Are there any {_pick_noun(scene, rng)}?"


def _pose_content(scene: DigitScene, rng: np.random.Generator) -> str:
    return f"What is in {pick_cell(scene, rng)}?"


def _pose_count(scene: DigitScene, rng: np.random.Generator) -> str:
    return f"How many {_pick_noun(scene, rng)} are there?"


def _pose_line(scene: DigitScene, rng: np.random.Generator) -> str:
    return f"What is the sum of {_LINES[rng.integers(len(_LINES))]}?"


def _pose_pair(scene: DigitScene, rng: np.random.Generator) -> str:
    first, second = _pick_two(lambda: pick_cell(scene, rng))
    return f"What is the sum of {first} and {second}?"


def _pose_extreme(scene: DigitScene, rng: np.random.Generator) -> str:
    return f"What is the {tuple(_EXTREMES)[rng.integers(2)]} {_KINDS[rng.integers(len(_KINDS))]}?"


def _pose_where(scene: DigitScene, rng: np.random.Generator) -> str:
    return f"Where is the {tuple(_EXTREMES)[rng.integers(2)]} digit?"


def _pose_more(scene: DigitScene, rng: np.random.Generator) -> str:
    first, second = _pick_two(lambda: _pick_noun(scene, rng))
    return f"Are there more {first} than {second}?"


def _pose_choice(scene: DigitScene, rng: np.random.Generator) -> str:
    if rng.random() < 0.5:
        first, second = _pick_two(lambda: _pick_noun(scene, rng))
        return f"Which are there more of? {_options([first, second, _EQUAL], rng)}"
    cell = pick_cell(scene, rng)
    truth = _content(scene, cell)
    others = [name for name in (*VALUES, NOTHING) if name != truth]
    names = [truth, *(others[index] for index in rng.choice(len(others), size=3, replace=False))]
    return f"What is in {cell}? {_options(names, rng)}"


def _options(names: list[str], rng: np.random.Generator) -> str:
    order = rng.permutation(len(names))
    return " ".join(f"{letter}) {names[index]}" for letter, index in zip(_LETTERS, order, strict=False))


def _content(scene: DigitScene, cell: str) -> str:
    digit = scene.at(cell)
    return NOTHING if digit is None else str(digit.value)


def _cells(scene: DigitScene, noun: str) -> list[str]:
    return [digit.cell for digit in scene.digits if fits(digit, noun)]


def _list(words: list[str] | list[int]) -> str:
    return " ".join(map(str, words)) or "none"


def _solve_existence(scene: DigitScene, parts: tuple[str, ...]) -> Solution:
    cells = _cells(scene, parts[0])
    return Solution("yes" if cells else "no", _list(cells))


def _solve_content(scene: DigitScene, parts: tuple[str, ...]) -> Solution:
    content = _content(scene, parts[0])
    return Solution(content, content)


def _solve_count(scene: DigitScene, parts: tuple[str, ...]) -> Solution:
    cells = _cells(scene, parts[0])
    return Solution(str(len(cells)), _list(cells))


def _solve_line(scene: DigitScene, parts: tuple[str, ...]) -> Solution:
    values = [digit.value for digit in scene.digits if parts[0].split()[1] in digit.cell]
    return Solution(str(sum(values)), _list(values))


def _solve_pair(scene: DigitScene, parts: tuple[str, ...]) -> Solution | None:
    if parts[0] == parts[1]:
        return None
    values = [[digit.value] if (digit := scene.at(cell)) else [] for cell in parts]
    return Solution(str(sum(map(sum, values))), " and ".join(map(_list, values)))


def _solve_extreme(scene: DigitScene, parts: tuple[str, ...]) -> Solution:
    extreme, noun = parts
    values = [digit.value for digit in scene.digits if fits(digit, noun)]
    return Solution(str(_EXTREMES[extreme](values)) if values else NOTHING, _list(values))


def _solve_where(scene: DigitScene, parts: tuple[str, ...]) -> Solution | None:
    """The cell; None where several have the largest or smallest digit, or none has one."""
    values = scene.values()
    extreme = _EXTREMES[parts[0]](values, default=-1)
    if values.count(extreme) != 1:
        return None
    return Solution(scene.digits[values.index(extreme)].cell, _list(values))


def _solve_more(scene: DigitScene, parts: tuple[str, ...]) -> Solution:
    first, second = (_cells(scene, noun) for noun in parts)
    return Solution("yes" if len(first) > len(second) else "no", f"{_list(first)} than {_list(second)}")


def _solve_choice(scene: DigitScene, parts: tuple[str, ...]) -> Solution | None:
    cell, options = parts
    letters = {name.strip(): letter for letter, name in re.findall(r"([A-D])\) ([a-z0-9 ]+)", options)}
    truth, listing = _compare(scene, letters) if cell is None else (_content(scene, cell),) * 2
    return Solution(letters[truth], listing) if truth in letters else None


def _compare(scene: DigitScene, names: dict[str, str]) -> tuple[str, str]:
    """The more frequent of two options that are nouns, and the cells of both."""
    nouns = [name for name in names if name in _NOUNS]
    if len(nouns) != 2:
        return "", ""
    first, second = (_cells(scene, noun) for noun in nouns)
    truth = _EQUAL if len(first) == len(second) else nouns[len(second) > len(first)]
    return truth, f"{_list(first)} than {_list(second)}"


def _pattern(text: str) -> re.Pattern[str]:
    noun, cell = f"({'|'.join(_NOUNS)})", f"([{COLUMNS}][{ROWS}])"
    return re.compile(text.replace("NOUN", noun).replace("CELL", cell))


_LINE, _KIND, _END = (f"({'|'.join(words)})" for words in (_LINES, _KINDS, _EXTREMES))
_WHICH = r"(?:Which are there more of|What is in CELL)\?((?: [A-D]\) [a-z0-9 ]+?)+)"
_SUM = "What is the sum of"
_YES_NO = ("yes", "no")
_FEW, _SUMS = VALUES[:4], tuple(map(str, range(16)))
FAMILIES = (
    Family("existence", YES_OR_NO, _pattern(r"Are there any NOUN\?"), _pose_existence, _solve_existence, _YES_NO),
    Family("content", SHORT, _pattern(r"What is in CELL\?"), _pose_content, _solve_content, (*VALUES, NOTHING)),
    Family("count", NUMERICAL, _pattern(r"How many NOUN are there\?"), _pose_count, _solve_count, _FEW),
    Family("line", NUMERICAL, _pattern(rf"{_SUM} {_LINE}\?"), _pose_line, _solve_line, _SUMS),
    Family("pair", NUMERICAL, _pattern(rf"{_SUM} CELL and CELL\?"), _pose_pair, _solve_pair, _SUMS),
    Family("extreme", SHORT, _pattern(rf"What is the {_END} {_KIND}\?"), _pose_extreme, _solve_extreme, VALUES),
    Family("where", SHORT, _pattern(rf"Where is the {_END} digit\?"), _pose_where, _solve_where, CELLS),
    Family("more", YES_OR_NO, _pattern(r"Are there more NOUN than NOUN\?"), _pose_more, _solve_more, _YES_NO),
    Family("choice", CHOICE, _pattern(_WHICH), _pose_choice, _solve_choice, tuple("ABC")),
)
