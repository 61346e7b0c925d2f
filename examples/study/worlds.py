"""What a study knows of a world: which family a question is of, by its text."""

from __future__ import annotations

from visplay.tiny.digits import DigitWorld
from visplay.tiny.shapes import SHAPES
from visplay.tiny.world import World

OTHER = "other"
"""What no family of the world asks."""


def shapes_family(question: str) -> str:
    """The family of a question of the shapes world; its two families of counts have one grammar, and are one here.

    Example:
        >>> shapes_family("How many red circles are there?"), shapes_family("Why?")
        ('count', 'other')
    """
    return _family(SHAPES, question).removesuffix("_one")


def digits_family(question: str) -> str:
    """The family of a question of the digits world.

    Example:
        >>> digits_family("What is in a1?"), digits_family("Why?")
        ('content', 'other')
    """
    return _family(_DIGITS, question)


_DIGITS = DigitWorld()


def _family(world: World, question: str) -> str:
    family = world.family_of(question)
    return OTHER if family is None else family.name
