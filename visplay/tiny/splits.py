"""Evaluation splits of a small world: fixed scenes that neither the cold start nor self-play is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from visplay.data.benchmarks.benchmark_files import write_benchmarks
from visplay.tiny.shapes import SHAPES
from visplay.tiny.world import Posed, World
from visplay.types import Example, derive_seed

_BLANK_FRACTION = 0.25


def heldout(n: int = 640, world: World = SHAPES) -> list[Example]:
    """Questions of every family about unseen images of the kind that training has.

    Args:
        n: Number of examples; the first ones do not depend on it.
        world: The world.
    """
    return _split("heldout", n, world, lambda rng: world.sample_scene(rng, "heldout"), world.pose)


def heldout_caption(key: str, world: World = SHAPES) -> str:
    """What a whole description of a held-out image says.

    Args:
        key: Of one of the examples of ``heldout``.
        world: The world.
    """
    rng = _generator("heldout", int(key.rpartition("/")[2]))
    return world.caption(world.sample_scene(rng, "heldout"))


def compositional(n: int = 320, world: World = SHAPES) -> list[Example]:
    """Questions about combinations that no image of the cold start or of self-play has.

    Args:
        n: Number of examples; the first ones do not depend on it.
        world: The world.
    """

    def pose(scene: Any, rng: np.random.Generator) -> Posed:
        return world.solved(scene, world.write_compositional(scene, rng))

    return _split("compositional", n, world, lambda rng: world.sample_scene(rng, "compositional"), pose)


def hallucination(n: int = 320, world: World = SHAPES) -> list[Example]:
    """Questions about what is absent: the true answer is no, 0 or nothing; a quarter of the images are blank.

    Args:
        n: Number of examples; the first ones do not depend on it.
        world: The world.
    """

    def sample(rng: np.random.Generator) -> Any:
        return world.blank() if rng.random() < _BLANK_FRACTION else world.sample_scene(rng, "heldout")

    def pose(scene: Any, rng: np.random.Generator) -> Posed:
        return world.solved(scene, world.write_absent(scene, rng))

    return _split("hallucination", n, world, sample, pose)


def write_splits(path: str | Path, n: int = 640, world: World = SHAPES) -> None:
    """Write the splits as the published benchmarks are: one parquet file, told apart by ``file_name``.

    Args:
        path: The file, which a ``BenchmarkSource`` reads with ``part`` ``heldout``, ``compositional`` or
            ``hallucination``.
        n: Number of held-out questions; each of the other splits has half of it.
        world: The world.
    """
    splits = {
        "heldout": heldout(n, world),
        "compositional": compositional(n // 2, world),
        "hallucination": hallucination(n // 2, world),
    }
    write_benchmarks(path, splits)


def _split(
    name: str,
    n: int,
    world: World,
    sample: Callable[[np.random.Generator], Any],
    pose: Callable[[Any, np.random.Generator], Posed],
) -> list[Example]:
    """Draw ``n`` examples, each from a seed of its own."""
    examples = []
    for index in range(n):
        rng = _generator(name, index)
        scene = sample(rng)
        key, posed = f"{name}/{index}", pose(scene, rng)
        image = world.render(scene, rng)  # after the question: both draw from one generator
        answer, kind = posed.solution.answer, posed.family.kind
        examples.append(Example(key, image, posed.text, answer, problem_type=kind, image_id=key))
    return examples


def _generator(name: str, index: int) -> np.random.Generator:
    """What an example is drawn from, its scene first."""
    return np.random.default_rng(derive_seed("tiny", "split", name, index))
