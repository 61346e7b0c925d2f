"""VLMEvalKit: tables of tab-separated values with images in base64, for a custom data set of each kind."""

from __future__ import annotations

import base64
import csv
import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from string import ascii_uppercase
from typing import NamedTuple

from visplay.data_engine.pairs import Pair
from visplay.grading.equivalence import equivalent

_LETTER = re.compile(r"(?:(?<=\s)|^)\(?([A-J])[).:]\s*")
_SHARED = ("index", "image", "question", "answer", "category", "key")
_MOST_OPTIONS = 10


class Choice(NamedTuple):
    """A multiple-choice question taken apart.

    Args:
        question: Without its options.
        options: In the order of their letters, from A.
    """

    question: str
    options: tuple[str, ...]


def write_vlmevalkit(pairs: Iterable[Pair], directory: Path, name: str) -> None:
    """Write ``NAME_MCQ.tsv``, of multiple-choice questions, and ``NAME_VQA.tsv``, of all others, for ``$LMUData``.

    A multiple-choice question whose options or answer cannot be told is left as a question.
    """
    letters = ascii_uppercase[:_MOST_OPTIONS]
    with ExitStack() as files:

        def table(kind: str, columns: Sequence[str]) -> csv.DictWriter:
            path = directory / f"{name}_{kind}.tsv"
            file = files.enter_context(path.open("w", encoding="utf-8", newline=""))
            writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n")
            writer.writeheader()
            return writer

        choices, questions = table("MCQ", (*_SHARED, *letters)), table("VQA", _SHARED)
        for index, pair in enumerate(pairs):
            image = base64.b64encode(pair.image).decode()
            row = {"index": index, "image": image, "category": pair.kind, "key": pair.key}
            choice = split_options(pair.question)
            letter = None if choice is None else letter_of(pair.answer, choice.options)
            if choice is None or letter is None:
                questions.writerow(row | {"question": pair.question, "answer": pair.answer})
            else:
                options = dict(zip(letters, choice.options, strict=False))
                choices.writerow(row | {"question": choice.question, "answer": letter} | options)


def split_options(text: str) -> Choice | None:
    """Take the options out of a question that states them as A, B and so on; None where it states none.

    Example:
        >>> split_options("Which shape? A) circle B) square")
        Choice(question='Which shape?', options=('circle', 'square'))
    """
    marks: list[re.Match[str]] = []
    for found in _LETTER.finditer(text):
        if len(marks) < _MOST_OPTIONS and found[1] == ascii_uppercase[len(marks)]:
            marks.append(found)
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    options = tuple(text[mark.end() : end].strip(" \n,;") for mark, end in zip(marks, ends, strict=False))
    if len(options) < 2 or not all(options):
        return None
    return Choice(text[: marks[0].start()].strip(), options)


def letter_of(answer: str, options: Sequence[str]) -> str | None:
    """The letter of the one option that an answer says; None where it says none, or two.

    Example:
        >>> letter_of("b", ["circle", "square"]), letter_of("square", ["circle", "square"]), letter_of("x", ["y", "y"])
        ('B', 'B', None)
    """
    said = [x for x, each in zip(ascii_uppercase, options, strict=False) if equivalent(answer, f"{x}. {each}")]
    return said[0] if len(said) == 1 else None
