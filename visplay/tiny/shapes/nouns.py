"""Noun phrases of the shapes world: "large red circles", "blue shapes"."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from visplay.tiny.shapes.shape_scenes import COLOURS, KINDS, SEEN, SIZES, Scene, Shape

PATTERN = rf"((?:(?:{'|'.join(SIZES)}) )?(?:(?:{'|'.join(COLOURS)}) )?(?:{'|'.join(KINDS)}|shape)s?)"
_ONE = (("size",), ("colour",), ("kind",))
_TWO = (("colour", "kind"), ("colour", "kind"), ("colour", "kind"), ("size", "kind"), ("size", "colour"))
_PRESENT_FRACTION = 0.7


@dataclass(frozen=True)
class Noun:
    """What a noun phrase asks of a shape; None leaves an attribute open.

    Example:
        >>> Noun(colour="red", kind="circle").plural
        'red circles'
    """

    size: str | None = None
    colour: str | None = None
    kind: str | None = None

    @property
    def singular(self) -> str:
        """The phrase for one shape."""
        return " ".join(word for word in (self.size, self.colour, self.kind or "shape") if word)

    @property
    def plural(self) -> str:
        """The phrase for several shapes."""
        return self.singular + "s"

    def fits(self, shape: Shape) -> bool:
        """Whether the shape is one of these."""
        wanted = ((self.size, shape.size), (self.colour, shape.colour), (self.kind, shape.kind))
        return all(want in (None, has) for want, has in wanted)

    def cells(self, scene: Scene) -> tuple[str, ...]:
        """The cells that have one, in raster order."""
        return tuple(shape.cell for shape in scene.shapes if self.fits(shape))


def read_noun(phrase: str) -> Noun:
    """Read a phrase that matched ``PATTERN``, singular or plural.

    Example:
        >>> read_noun("small shapes")
        Noun(size='small', colour=None, kind=None)
    """
    words = phrase.removesuffix("s").split()

    def find(names: tuple[str, ...]) -> str | None:
        return next((word for word in words if word in names), None)

    return Noun(find(tuple(SIZES)), find(tuple(COLOURS)), find(KINDS))


def pick_noun(scene: Scene, rng: np.random.Generator, attributes: int) -> Noun:
    """Draw a phrase with one or two attributes, usually of a shape in the scene, never a held-out combination."""
    shapes = [shape for shape in scene.shapes if (shape.colour, shape.kind) in SEEN]
    if shapes and rng.random() < _PRESENT_FRACTION:
        shape = shapes[rng.integers(len(shapes))]
    else:
        shape = Shape("a1", tuple(SIZES)[rng.integers(len(SIZES))], *SEEN[rng.integers(len(SEEN))])
    choices = _ONE if attributes == 1 else _TWO
    names = choices[rng.integers(len(choices))]
    return Noun(**{name: getattr(shape, name) for name in names})
