"""Unlabeled images of a small world for self-play, and, for an evaluation probe alone, the truth about them.

Self-play is given images and nothing else: names are hashes of the pixels and files carry no metadata.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from visplay.data.images.image_folder import record_good
from visplay.grading.equivalence import equivalent
from visplay.tiny.shapes import SHAPES
from visplay.tiny.world import World
from visplay.types import Example, derive_seed


def write_images(directory: str | Path, n: int, seed: int, world: World = SHAPES) -> Path:
    """Render unlabeled images as PNG files; what is there already stays, what is missing is completed.

    Each file appears at once under its final name, so several processes may write the same directory.

    Args:
        directory: Where to write; made if missing.
        n: Number of images.
        seed: Seed of the scenes; a larger ``n`` adds images to those of a smaller one.
        world: The world.

    Returns:
        The directory.

    Raises:
        ValueError: ``n`` is not positive, or the directory has PNG files that are not among these images.
    """
    if n < 1:
        raise ValueError(f"n: need at least one image, got {n}")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    wanted = {image_name(image): image for _, image in _draw(n, seed, world)}
    present = {path.name for path in directory.glob("*.png")}
    if unknown := present - set(wanted):
        raise ValueError(
            f"directory: {directory} holds {len(unknown)} PNG files that are not of n={n}, seed={seed}; give "
            "an empty one"
        )
    missing = wanted.keys() - present
    for name in missing:
        _write(wanted[name], directory / name)
    if missing:
        record_good(directory, missing)
    return directory


def labelled_examples(n: int, seed: int, questions_per_image: int, world: World = SHAPES) -> list[Example]:
    """The same images with questions of every family and true answers, for training with labels as an upper bound.

    Args:
        n: Number of images.
        seed: Seed of the scenes.
        questions_per_image: Questions about each.
        world: The world.
    """
    examples = []
    for scene, image in _draw(n, seed, world):
        name = image_name(image)
        for index in range(questions_per_image):
            key = f"{name}#{index}"
            posed = world.pose(scene, np.random.default_rng(derive_seed("tiny", "labelled", seed, key)))
            answer, kind = posed.solution.answer, posed.family.kind
            examples.append(Example(key, image, posed.text, answer, problem_type=kind, image_id=name))
    return examples


def image_name(image: Image.Image) -> str:
    """File name of an image: the hash of its pixels."""
    return hashlib.sha256(np.asarray(image).tobytes()).hexdigest()[:20] + ".png"


@lru_cache(maxsize=4)
def silver_truth(n: int, seed: int, world: World = SHAPES) -> Mapping[str, Any]:
    """Scenes behind the images of ``write_images``, by file name; for an evaluation probe ONLY."""
    return MappingProxyType({image_name(image): scene for scene, image in _draw(n, seed, world)})


@dataclass(frozen=True)
class SilverAccuracy:
    """How true a generated data set is.

    Args:
        accuracy: Fraction of silver answers equivalent to the truth, among questions of the grammar; None without any.
        off_grammar: Fraction of questions that no family of the world has; None without rows of its images.
        rows: Number of rows whose image is of the world.
    """

    accuracy: float | None
    off_grammar: float | None
    rows: int


def silver_accuracy(rows: Iterable[tuple[str, str, str]], n: int, seed: int, world: World = SHAPES) -> SilverAccuracy:
    """Compare silver answers with the truth; a probe whose result must never reach training.

    Args:
        rows: Triples of image id (file name or path), question and silver answer; other images are passed over.
        n: Number of images, as in ``write_images``.
        seed: Seed of the images, as in ``write_images``.
        world: Their world.
    """
    scenes = silver_truth(n, seed, world)
    known = [(scenes[name], row) for row in rows if (name := PurePath(row[0]).name) in scenes]
    truths = [(world.solve(scene, question), answer) for scene, (_, question, answer) in known]
    graded = [equivalent(answer, truth) for truth, answer in truths if truth is not None]
    return SilverAccuracy(
        accuracy=sum(graded) / len(graded) if graded else None,
        off_grammar=1 - len(graded) / len(known) if known else None,
        rows=len(known),
    )


def _draw(n: int, seed: int, world: World) -> Iterator[tuple[Any, Image.Image]]:
    """Scenes and images; each has a seed of its own, so the first ones do not depend on ``n``."""
    for index in range(n):
        rng = np.random.default_rng(derive_seed("tiny", "self-play", seed, index))
        scene = world.sample_scene(rng, "training")
        yield scene, world.render(scene, rng)


def _write(image: Image.Image, path: Path) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    image.save(draft, format="PNG")
    os.replace(draft, path)
