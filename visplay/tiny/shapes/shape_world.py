"""The shapes world: procedural, of coloured shapes on the 4x4 grid."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from PIL import Image

from visplay.tiny import BASE
from visplay.tiny.grid import CELLS
from visplay.tiny.shapes.nouns import Noun
from visplay.tiny.shapes.shape_questions import FAMILIES
from visplay.tiny.shapes.shape_scenes import COLOURS, HELD_OUT, KINDS, SEEN, SIZES, Scene, render, sample_scene
from visplay.tiny.world import NOTHING, Part, World

_PLURALS = tuple(f"{kind}s" for kind in KINDS)


class ShapeWorld(World):
    """Two to seven shapes in four colours, of three kinds and two sizes."""

    name = "shapes"
    base = BASE
    summary = "shapes on a 4x4 grid"
    families = FAMILIES
    search_families = (("count_one",), ("existence", "count_one", "count_two", "line"))
    words = (*COLOURS, *KINDS, *_PLURALS, *SIZES)
    contents = ((NOTHING, *COLOURS), (NOTHING, *KINDS), (NOTHING, *_PLURALS), (NOTHING, *SIZES))

    def sample_scene(self, rng: np.random.Generator, part: Part) -> Scene:
        """Draw a scene of 2 to 7 shapes."""
        return sample_scene(rng, held_out=part == "compositional")

    def blank(self) -> Scene:
        """No shape."""
        return Scene(())

    def part_of(self, scene: Scene, cells: Collection[str]) -> Scene:
        """The shapes in some cells."""
        return Scene(tuple(shape for shape in scene.shapes if shape.cell in cells))

    def render(self, scene: Scene, rng: np.random.Generator) -> Image.Image:
        """Draw a scene."""
        return render(scene, rng)

    def full_cells(self, scene: Scene) -> tuple[str, ...]:
        """The cells that have a shape."""
        return tuple(shape.cell for shape in scene.shapes)

    def content_of(self, scene: Scene, cell: str) -> tuple[int, ...]:
        """Colour, kind, kind in the plural and size of the shape in a cell."""
        shape = scene.at(cell)
        if shape is None:
            return 0, 0, 0, 0
        kind = 1 + KINDS.index(shape.kind)
        return 1 + list(COLOURS).index(shape.colour), kind, kind, 1 + list(SIZES).index(shape.size)

    def caption(self, scene: Scene) -> str:
        """Cells, sizes, colours and kinds."""
        return " ".join(f"{shape.cell} {shape.size} {shape.colour} {shape.kind}" for shape in scene.shapes)

    def write_compositional(self, scene: Scene, rng: np.random.Generator) -> str:
        """A question about a held-out combination in the scene, or once in a while about one that is not there."""
        strange = [shape for shape in scene.shapes if (shape.colour, shape.kind) in HELD_OUT]
        shape = strange[rng.integers(len(strange))]
        colour, kind = HELD_OUT[rng.integers(len(HELD_OUT))] if rng.random() < 0.5 else (shape.colour, shape.kind)
        other = Noun(None, *SEEN[rng.integers(len(SEEN))])
        noun = Noun(None, colour, kind)
        texts = (
            f"Is there a {noun.singular}?",
            f"How many {noun.plural} are there?",
            f"What is in {shape.cell}?",
            f"How many {noun.plural} and {other.plural} are there in total?",
        )
        return texts[rng.integers(len(texts))]

    def write_absent(self, scene: Scene, rng: np.random.Generator) -> str:
        """A question about combinations that are not there, or about an empty cell."""
        absent = [pair for pair in SEEN if pair not in scene.pairs()]
        first, second = (Noun(None, *absent[index]) for index in rng.choice(len(absent), size=2, replace=False))
        empty = [cell for cell in CELLS if scene.at(cell) is None]
        texts = (
            f"Is there a {first.singular}?",
            f"How many {first.plural} are there?",
            f"What is in {empty[rng.integers(len(empty))]}?",
            f"How many {first.plural} and {second.plural} are there in total?",
        )
        return texts[rng.integers(len(texts))]
