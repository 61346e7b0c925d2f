"""Short questions about whole numbers: sums, differences, products, and which of two is larger or smaller."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

FAMILIES: dict[str, tuple[str, Callable[[int, int], int], tuple[int, int]]] = {
    "sum": ("What is {} + {}?", lambda a, b: a + b, (1, 20)),
    "difference": ("What is {} - {}?", lambda a, b: a - b, (1, 20)),
    "product": ("What is {} * {}?", lambda a, b: a * b, (1, 9)),
    "larger": ("Which is larger, {} or {}?", max, (1, 99)),
    "smaller": ("Which is smaller, {} or {}?", min, (1, 99)),
}
"""By name: how it is asked, what is right, and the least and the largest number that is asked about."""
_NUMBER = r"(-?\d{1,9})"
_PATTERNS = {name: re.compile(_NUMBER.join(map(re.escape, text.split("{}")))) for name, (text, *_) in FAMILIES.items()}


def pose(family: str, rng: np.random.Generator) -> str:
    """Draw a question of a family; a difference is not below 0.

    Args:
        family: One of ``FAMILIES``.
        rng: What it is drawn from.
    """
    text, _, (least, largest) = FAMILIES[family]
    a, b = (int(number) for number in rng.choice(np.arange(least, largest + 1), 2, replace=family == "product"))
    return text.format(*sorted((a, b), reverse=True)) if family == "difference" else text.format(a, b)


def pose_many(n: int, rng: np.random.Generator) -> list[str]:
    """Draw different questions, of each family as many as of the others, up to one.

    Args:
        n: Number of questions.
        rng: What they are drawn from.

    Raises:
        ValueError: There are not as many.
    """
    most = len(FAMILIES) * min(_count(family) for family in FAMILIES)
    if n > most:
        raise ValueError(f"n: {n} questions must differ, and there are {most}, of each family as many")
    names, questions = list(FAMILIES), dict[str, None]()
    while len(questions) < n:
        questions[pose(names[len(questions) % len(names)], rng)] = None
    return list(questions)


def solve(question: str) -> str | None:
    """The true answer; None if it is no question of a family.

    Example:
        >>> solve("What is 17 + 4?"), solve("Which is smaller, 17 or 4?"), solve("What is love?")
        ('21', '4', None)
    """
    family = family_of(question)
    if family is None:
        return None
    numbers = _PATTERNS[family].fullmatch(question)
    assert numbers is not None
    return str(FAMILIES[family][1](*map(int, numbers.groups())))


def family_of(question: str) -> str | None:
    """The family of a question, whatever its numbers are; None if it has none.

    Example:
        >>> family_of("What is 170 * 4?"), family_of("What is 170 x 4?")
        ('product', None)
    """
    return next((name for name, pattern in _PATTERNS.items() if pattern.fullmatch(question)), None)


def _count(family: str) -> int:
    """Different questions that are posed of a family."""
    _, _, (least, largest) = FAMILIES[family]
    numbers = largest - least + 1
    return {"product": numbers**2, "difference": numbers * (numbers - 1) // 2}.get(family, numbers * (numbers - 1))
