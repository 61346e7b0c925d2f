"""Scenes of the shapes world: shapes on the 4x4 grid, rendered to 56x56 pixels."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from PIL import Image

from visplay.tiny.grid import CELL_PIXELS, CELLS, TINT, background, cell_of, to_image

COLOURS = {"red": (205, 50, 45), "green": (50, 165, 70), "blue": (55, 85, 205), "yellow": (215, 195, 55)}
KINDS = ("circle", "square", "triangle")
SIZES = {"small": 3.6, "large": 5.7}
HELD_OUT = (("green", "triangle"), ("yellow", "square"))
SEEN = tuple(pair for pair in product(COLOURS, KINDS) if pair not in HELD_OUT)

_JITTER_PIXELS = 1.3


@dataclass(frozen=True)
class Shape:
    """One shape in one cell.

    Args:
        cell: Name of the cell, column letter and row number, ``a1`` at the top left.
        size: A key of ``SIZES``.
        colour: A key of ``COLOURS``.
        kind: One of ``KINDS``.
    """

    cell: str
    size: str
    colour: str
    kind: str


@dataclass(frozen=True)
class Scene:
    """The truth of one image: its shapes in raster order, at most one in a cell."""

    shapes: tuple[Shape, ...]

    def at(self, cell: str) -> Shape | None:
        """The shape in a cell, or None.

        Example:
            >>> Scene((Shape("a1", "small", "red", "circle"),)).at("b1") is None
            True
        """
        return next((shape for shape in self.shapes if shape.cell == cell), None)

    def pairs(self) -> set[tuple[str, str]]:
        """The combinations (colour, kind) that occur."""
        return {(shape.colour, shape.kind) for shape in self.shapes}


def sample_scene(rng: np.random.Generator, *, held_out: bool) -> Scene:
    """Draw a scene of 2 to 7 shapes.

    Args:
        rng: Source of randomness.
        held_out: False keeps the combinations of ``HELD_OUT`` away; True makes one or two of the shapes one of them.
    """
    cells = sorted(rng.choice(len(CELLS), size=int(rng.integers(2, 8)), replace=False))
    pairs = [SEEN[rng.integers(len(SEEN))] for _ in cells]
    if held_out:
        for index in rng.choice(len(cells), size=int(rng.integers(1, 3)), replace=False):
            pairs[index] = HELD_OUT[rng.integers(len(HELD_OUT))]
    sizes = [tuple(SIZES)[rng.integers(len(SIZES))] for _ in cells]
    return Scene(tuple(Shape(CELLS[c], size, *pair) for c, size, pair in zip(cells, sizes, pairs, strict=True)))


def render(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """Draw a scene with jitter, perturbed colours and noise; the same generator state gives the same pixels.

    Returns:
        An RGB image of 56x56 pixels.
    """
    canvas = background() + rng.uniform(-TINT, TINT)
    for shape in scene.shapes:
        _paint(canvas, shape, rng)
    return to_image(canvas, rng)


def _paint(canvas: np.ndarray, shape: Shape, rng: np.random.Generator) -> None:
    """Blend one shape into the canvas, in place."""
    centre = CELL_PIXELS / 2 - 0.5 + rng.uniform(-_JITTER_PIXELS, _JITTER_PIXELS, 2)
    along = np.arange(CELL_PIXELS)
    radius = SIZES[shape.size] * rng.uniform(0.92, 1.08)
    alpha = _coverage(shape.kind, along[None, :] - centre[0], along[:, None] - centre[1], radius)[:, :, None]
    colour = np.array(COLOURS[shape.colour]) + rng.uniform(-TINT, TINT, 3)
    cell = cell_of(canvas, shape.cell)
    cell += alpha * (colour - cell)


def _coverage(kind: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """How much of each pixel the shape covers, in [0, 1], from the distance to its nearest edge."""
    if kind == "circle":
        inside = radius - np.hypot(x, y)
    elif kind == "square":
        inside = 0.86 * radius - np.maximum(np.abs(x), np.abs(y))
    else:
        inside = np.minimum(0.6 * radius - y, 0.6 * radius - 0.866 * np.abs(x) + 0.5 * y)
    return np.clip(inside + 0.5, 0.0, 1.0)
