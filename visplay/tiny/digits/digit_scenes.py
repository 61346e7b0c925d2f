"""Scenes of the digits world: handwritten digits on the 4x4 grid, rendered to 56x56 pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from visplay.tiny.digits.scans import SCAN_PIXELS, ink, scans_of
from visplay.tiny.grid import CELL_PIXELS, CELLS, TINT, background, cell_of, to_image
from visplay.tiny.world import Part

HELD_OUT = {"a": 2, "b": 2, "c": 7, "d": 7}
"""For each column the digit that no image of the cold start or of self-play has in it."""

_INK = 235.0


@dataclass(frozen=True)
class Digit:
    """One digit in one cell.

    Args:
        cell: Name of the cell.
        value: 0 ... 9.
        scan: Number of the scan that shows it.
    """

    cell: str
    value: int
    scan: int

    @property
    def held_out(self) -> bool:
        """Whether training lacks this digit in this column."""
        return HELD_OUT[self.cell[0]] == self.value


@dataclass(frozen=True)
class DigitScene:
    """The truth of one image: its digits in raster order, at most one in a cell."""

    digits: tuple[Digit, ...]

    def at(self, cell: str) -> Digit | None:
        """The digit in a cell, or None."""
        return next((digit for digit in self.digits if digit.cell == cell), None)

    def values(self) -> list[int]:
        """The digits' values in raster order."""
        return [digit.value for digit in self.digits]


def sample_scene(rng: np.random.Generator, part: Part) -> DigitScene:
    """Draw a scene of 2 to 6 digits, of which the largest and the smallest occur once.

    Args:
        rng: Source of randomness.
        part: ``compositional`` puts one or two digits in a column where training never has them; training and
            evaluation have scans of their own.
    """
    while True:
        cells = [CELLS[c] for c in sorted(rng.choice(len(CELLS), size=int(rng.integers(2, 7)), replace=False))]
        values = [_seen_value(cell, rng) for cell in cells]
        if part == "compositional":
            for index in rng.choice(len(cells), size=int(rng.integers(1, 3)), replace=False):
                values[index] = HELD_OUT[cells[index][0]]
        if values.count(max(values)) == values.count(min(values)) == 1:
            break
    scans = [int(rng.choice(scans_of(value, training=part == "training"))) for value in values]
    return DigitScene(tuple(map(Digit, cells, values, scans)))


def render(scene: DigitScene, rng: np.random.Generator) -> Image.Image:
    """Draw a scene with jitter, perturbed colours and noise; the same generator state gives the same pixels."""
    canvas = background() + rng.uniform(-TINT, TINT)
    for digit in scene.digits:
        left, top = rng.integers(CELL_PIXELS - SCAN_PIXELS + 1, size=2)
        cell = cell_of(canvas, digit.cell)[top : top + SCAN_PIXELS, left : left + SCAN_PIXELS]
        cell += ink(digit.scan)[:, :, None] * (_INK + rng.uniform(-TINT, TINT, 3) - cell)
    return to_image(canvas, rng)


def _seen_value(cell: str, rng: np.random.Generator) -> int:
    return int(rng.choice([value for value in range(10) if value != HELD_OUT[cell[0]]]))
