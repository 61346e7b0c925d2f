"""The digits world: real handwritten digits on the 4x4 grid."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import Image

from visplay.tiny.digits.digit_questions import FAMILIES, PARITIES, VALUES, pick_cell
from visplay.tiny.digits.digit_scenes import HELD_OUT, DigitScene, render, sample_scene
from visplay.tiny.grid import CELLS
from visplay.tiny.world import NOTHING, Part, World


class DigitWorld(World):
    """Two to six scans of handwritten digits; needs scikit-learn, which ships them."""

    name = "digits"
    base = Path(__file__).parent / "base"
    summary = "handwritten digits (UCI, as scikit-learn ships them) on a 4x4 grid"
    families = FAMILIES
    search_families = (("count",), ("existence", "content", "count", "line", "pair"))
    words = (*VALUES, *PARITIES, "digit", "digits")
    contents = ((NOTHING, *VALUES), (NOTHING, *PARITIES))

    def sample_scene(self, rng: np.random.Generator, part: Part) -> DigitScene:
        """Draw a scene of 2 to 6 digits."""
        return sample_scene(rng, part)

    def blank(self) -> DigitScene:
        """No digit."""
        return DigitScene(())

    def part_of(self, scene: DigitScene, cells: Collection[str]) -> DigitScene:
        """The digits in some cells."""
        return DigitScene(tuple(digit for digit in scene.digits if digit.cell in cells))

    def render(self, scene: DigitScene, rng: np.random.Generator) -> Image.Image:
        """Draw a scene."""
        return render(scene, rng)

    def full_cells(self, scene: DigitScene) -> tuple[str, ...]:
        """The cells that have a digit."""
        return tuple(digit.cell for digit in scene.digits)

    def content_of(self, scene: DigitScene, cell: str) -> tuple[int, ...]:
        """Value and parity of the digit in a cell."""
        digit = scene.at(cell)
        return (0, 0) if digit is None else (1 + digit.value, 1 + digit.value % 2)

    def caption(self, scene: DigitScene) -> str:
        """Cells and values."""
        return " ".join(f"{digit.cell} {digit.value}" for digit in scene.digits)

    def write_compositional(self, scene: DigitScene, rng: np.random.Generator) -> str:
        """A question about a digit in a column where training lacks it, or once in a while about the other."""
        strange = [digit for digit in scene.digits if digit.held_out]
        digit = strange[rng.integers(len(strange))]
        column = tuple(HELD_OUT)[rng.integers(len(HELD_OUT))] if rng.random() < 0.5 else digit.cell[0]
        noun, other = f"{HELD_OUT[column]}s", pick_cell(scene, rng)
        texts = [
            f"Are there any {noun}?",
            f"How many {noun} are there?",
            f"What is in {digit.cell}?",
            f"What is the sum of {digit.cell} and {other}?",
        ]
        return texts[rng.integers(len(texts) - (other == digit.cell))]

    def write_absent(self, scene: DigitScene, rng: np.random.Generator) -> str:
        """A question about digits that are not there, or about empty cells."""
        absent = sorted(set(range(10)) - set(scene.values()))
        first, second = rng.choice(absent, size=2, replace=False)
        empty = [cell for cell in CELLS if scene.at(cell) is None]
        one, two = (empty[index] for index in rng.choice(len(empty), size=2, replace=False))
        texts = (
            f"Are there any {first}s?",
            f"How many {first}s are there?",
            f"What is in {one}?",
            f"What is the sum of {one} and {two}?",
            f"Are there more {first}s than {second}s?",
        )
        return texts[rng.integers(len(texts))]
