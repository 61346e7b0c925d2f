"""Text from the cells of a table: questions with their options and the marks of their images, answers, and the rest."""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from numbers import Number
from typing import Any, TypeGuard

from visplay.functional.parsing import parse_boxed

# What JSON and Python escape with in a list of texts. A letter after one of n, t, r, b and f may as well make a command
# of LaTeX of it: for n, t and r those that there are, for b and f, which no text has, whatever it is.
_COMMANDS = (
    r"n(?:abla|atural|e|earrow|eg|eq|eqq|exists|geq|gtr|leftarrow|leq|less|mid|newline|ot|otin|parallel|prec|rightarrow"
    r"|sim|subset|subseteq|succ|supseteq|u|warrow)"
    r"|t(?:an|anh|au|binom|ext[a-z]*|frac|herefore|heta|hinspace|ilde|imes|o|op|riangle[a-z]*)"
    r"|r(?:angle|brace|brack|ceil|floor|ho|ight[a-z]*|m|Vert|vert)|[bf][A-Za-z]+"
)
_WRITTEN_ESCAPE = re.compile(
    rf"\\(?:[\\'\"/]|(?!(?:{_COMMANDS})(?![A-Za-z]))[ntrbf]|x[0-9a-fA-F]{{2}}|u[0-9a-fA-F]{{4}}|U[0-9a-fA-F]{{8}})"
)
_BACKSLASHES = re.compile(r"\\\\|\\(?!['\"])")
_MARK = re.compile(r"<image(?:[ \t]*(\d+))?>")
_AT_THE_BEGINNING = re.compile(rf"\s*(?:{_MARK.pattern}\s*)+")
BARE_MARK = re.compile(r"<image>[ \t]*\n?")
MAX_CHARACTERS = 2**20
"""Of a text in a cell: more than a context holds."""
MAX_OPTIONS = 1000
_STATED_CHARACTERS = 1000  # no question states a longer option itself, and looking for one takes long


def read_text(row: Mapping[str, Any], column: str | None) -> str:
    """The text of a cell, stripped; numbers and booleans become text, and an empty cell is empty text.

    Raises:
        ValueError: If the cell holds something else, or more than ``MAX_CHARACTERS``.
    """
    value = None if column is None else row.get(column)
    if not isinstance(value, str | Number | None):
        raise ValueError(f"{column} is a {type(value).__name__}, not text or a number")
    _check_length(column, value)
    return _write(value)


def unwrap_answer(text: str) -> str:
    r"""The answer itself, out of what data sets wrap gold answers in: answer tags, the line after ``####``, a box.

    A working before it goes with the wrapping. A text that has several tags or boxes is left as it is.

    Example:
        >>> [unwrap_answer(text) for text in ("<answer> 7 </answer>", "3 + 4 = 7\n#### 7", r"It is \boxed{7}.", "7")]
        ['7', '7', '7', '7']
    """
    before, inner = "", text.strip()
    while inner != before:
        before = inner
        if inner.count("<answer>") == inner.count("</answer>") == 1:
            inner = inner.partition("<answer>")[2].partition("</answer>")[0].strip() or inner
        elif "####" in inner:
            inner = _after_hashes(inner) or inner
        elif inner.count("\\boxed") == 1:
            inner = parse_boxed(inner) or inner
    return inner


def _after_hashes(text: str) -> str:
    """What follows the mark on a last line that begins with it; "" where there is none."""
    before, _, after = text.rpartition("####")
    begins = not before.strip() or before.rstrip(" \t").endswith("\n")
    return "" if "\n" in after.strip() or not begins else after.strip()


def count_marks(text: str) -> int:
    """Count the images that a question names: the greatest number of ``<image 2>``, or the marks ``<image>``.

    Example:
        >>> count_marks("<image>Is it red?"), count_marks("Is <image 1> like <image 2> or <image 1>?")
        (1, 2)
    """
    numbers = _MARK.findall(text)
    bare = sum(not number for number in numbers)
    # of more digits the first nine say as well that there are not as many images
    return max([bare, *(int(number.lstrip("0")[:9] or 0) for number in numbers if number)])


def place_marks(text: str, images: int) -> str:
    r"""Write ``[image 2]`` where a question speaks of an image; all images come before the question.

    Bare marks stand for the images in turn. With one image, marks at the beginning and the end say nothing and are
    taken out, and so are bare ones.

    Example:
        >>> place_marks("<image>\nHow many?", 1), place_marks("Is <image 2> like <image 1>?", 2)
        ('How many?', 'Is [image 2] like [image 1]?')
    """
    if images == 1:
        beginning = _AT_THE_BEGINNING.match(text)
        text = text if beginning is None else text[beginning.end() :]
        text = BARE_MARK.sub("", text[: _end_before_marks(text)])
    turns = iter(range(1, text.count("<image>") + 1))
    return _MARK.sub(lambda mark: f"[image {mark[1] or next(turns)}]", text).strip()


def read_options(value: object) -> tuple[str, ...]:
    r"""The options of a multiple-choice question: a list, a mapping by letter, or either of them written as text.

    None for an empty cell or an empty list; a ValueError if the cell holds something else, or more than
    ``MAX_CHARACTERS``, of all options together, or ``MAX_OPTIONS``.

    In a list written as text, a backslash before what neither Python nor JSON escapes begins a command of LaTeX; then
    every backslash of the cell is LaTeX's.

    Example:
        >>> read_options("['a cat', 'a dog']"), read_options({"A": "red", "B": 2}), read_options("")
        (('a cat', 'a dog'), ('red', '2'), ())
        >>> read_options(r"['\frac{1}{2}', '\theta']") == read_options(r"['\\frac{1}{2}', '\\theta']")
        True
    """
    parsed = value
    _check_length("options", value)
    if isinstance(value, str) and value.strip():
        parsed = _parse_literal(value.strip())
    elif value is None or isinstance(value, str):
        return ()
    if parsed is None:
        return ()
    if isinstance(parsed, Mapping):
        parsed = [parsed[name] for name in sorted(parsed, key=str) if parsed[name] is not None]
    if not _is_list_of_texts(parsed):
        raise ValueError(f"options are {str(value)[:60]!r}, not a list of texts")
    if len(parsed) > MAX_OPTIONS:
        raise ValueError(f"{len(parsed)} options; at most {MAX_OPTIONS} are read")
    options = tuple(str(option).strip() for option in parsed)
    joined = "".join(options)
    _check_length("options", joined)
    joined.encode()  # half a character, as an escape may write it, could not be stored
    return options


def append_options(problem: str, options: Sequence[str]) -> str:
    r"""Put lettered options after a question, unless it states all of them already.

    Example:
        >>> append_options("Which?", ("a cat", "a dog"))
        'Which?\nA. a cat\nB. a dog'
        >>> append_options("Which? (A) a cat (B) a dog", ("a cat", "a dog"))
        'Which? (A) a cat (B) a dog'
    """
    letters = (chr(ord("A") + index) if index < 26 else str(index + 1) for index in range(len(options)))
    lettered = list(zip(letters, options, strict=True))
    if all(_states(problem, letter, option) for letter, option in lettered):
        return problem
    return "\n".join([problem, *(f"{letter}. {option}" for letter, option in lettered)])


def write_problem(text: str, options: Sequence[str], images: int, blank: str = "") -> str:
    r"""Write a question as it is asked: the marks of its images replaced, its options after it.

    Args:
        text: The question as the source has it.
        options: Its options.
        images: How many images come before it, one or more.
        blank: Stands in for a question without text; if that is empty too, so is the result.

    Example:
        >>> write_problem("Which is <image 2>?", ("a cat", "like <image 1>"), 2)
        'Which is [image 2]?\nA. a cat\nB. like [image 1]'
    """
    if not _MARK.sub("", text).strip():
        text = blank
    if not text:
        return ""
    if images == 1:
        return append_options(place_marks(text, 1), [_MARK.sub("[image 1]", option) for option in options])
    return place_marks(append_options(text, options), images)


def read_metadata(row: Mapping[str, Any], used: Collection[str], options: Sequence[str]) -> dict[str, str]:
    """The columns that are not used otherwise, as text, and the options; a list becomes a JSON list.

    Empty cells, and those with anything but texts, numbers, booleans or lists of these, are left out.

    Example:
        >>> read_metadata({"problem": "?", "level": 3, "capability": ["ocr", "math"]}, ["problem"], ["a", "b"])
        {'level': '3', 'capability': '["ocr", "math"]', 'options': '["a", "b"]'}
    """
    cells = {name: value for name, value in row.items() if name not in used} | {"options": options}
    texts = {name: _write(value) for name, value in cells.items()}
    return {name: text for name, text in texts.items() if text}


def _states(problem: str, letter: str, option: str) -> bool:
    """Whether a question has an option behind its letter."""
    if len(option) > _STATED_CHARACTERS:
        return False
    letters = re.finditer(rf"\b{letter}[).:\s]\s*", problem)
    return any(problem.startswith(option, found.end()) for found in letters)


def _check_length(column: str | None, value: object) -> None:
    if isinstance(value, str) and len(value) > MAX_CHARACTERS:
        raise ValueError(f"{column} has {len(value)} characters; at most {MAX_CHARACTERS} are read")


def _end_before_marks(text: str) -> int:
    """Where a text ends without the marks and white space at its end; a pattern would look from every space on."""
    end = len(text)
    while True:
        while end and text[end - 1].isspace():
            end -= 1
        start = text.rfind("<image", 0, end)
        if start < 0 or _MARK.fullmatch(text, start, end) is None:
            return end
        end = start


def _parse_literal(text: str) -> object:
    """The value that a text is in JSON or in Python; the text itself if it is none."""
    if "\\" in _WRITTEN_ESCAPE.sub("", text):
        text = _BACKSLASHES.sub(lambda found: found[0] * 2, text)
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    with suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an escape that JSON knows and Python does not
        return ast.literal_eval(text)
    return text


def _write(value: object) -> str:
    """A text, a number or a list of these as text; empty for anything else."""
    if _is_list_of_texts(value):
        return json.dumps([_write(part) for part in value], ensure_ascii=False) if value else ""
    empty = not isinstance(value, str | Number) or (isinstance(value, float) and math.isnan(value))
    return "" if empty else str(value).strip()


def _is_list_of_texts(value: object) -> TypeGuard[Sequence[str | Number]]:
    return isinstance(value, list | tuple) and all(isinstance(part, str | Number) for part in value)
