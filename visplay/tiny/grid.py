"""The 4x4 grid of cells that every small world has, 14 pixels each, and the background under it."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
from PIL import Image

COLUMNS = "abcd"
ROWS = "1234"
CELLS = tuple(column + row for row, column in product(ROWS, COLUMNS))
"""Names of the cells in raster order: column letter and row number, ``a1`` at the top left."""

IMAGE_PIXELS = 56
CELL_PIXELS = IMAGE_PIXELS // len(COLUMNS)
TINT = 18.0
"""How far colours are perturbed, in grey levels."""

_NOISE = 5.0
_GRADIENT = 70.0


@cache
def background() -> np.ndarray:
    """The gradient, (56, 56, 3), not to be written to.

    The grey background grows redder to the right and bluer downwards: Qwen2.5-VL has relative positions only, and
    the gradient tells a cell apart from its neighbours.
    """
    ramp = np.linspace(0.0, _GRADIENT, IMAGE_PIXELS)
    canvas = np.full((IMAGE_PIXELS, IMAGE_PIXELS, 3), 95.0)
    canvas[:, :, 0] += ramp[None, :]
    canvas[:, :, 2] += ramp[:, None]
    return canvas


def cell_of(canvas: np.ndarray, cell: str) -> np.ndarray:
    """The pixels of a cell, a view of (14, 14, 3)."""
    left, top = COLUMNS.index(cell[0]) * CELL_PIXELS, ROWS.index(cell[1]) * CELL_PIXELS
    return canvas[top : top + CELL_PIXELS, left : left + CELL_PIXELS]


def to_image(canvas: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """An RGB image of the canvas with noise; changes the canvas."""
    canvas += rng.normal(0.0, _NOISE, canvas.shape)
    return Image.fromarray(canvas.round().clip(0, 255).astype(np.uint8))
