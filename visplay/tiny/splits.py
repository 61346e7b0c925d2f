"""Evaluation splits of the small world: fixed scenes that neither the cold start nor self-play is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from visplay.data.benchmarks.benchmark_files import write_benchmarks
from visplay.tiny.nouns import Noun
from visplay.tiny.questions import Posed, pose, work_out
from visplay.tiny.world import CELLS, HELD_OUT, SEEN, Scene, render, sample_scene
from visplay.types import Example, derive_seed

_BLANK_FRACTION = 0.25


def heldout(n: int = 640) -> list[Example]:
    """Questions of every family about unseen images of the kind that training has.

    Args:
        n: Number of examples; the first ones do not depend on it.
    """
    return _split("heldout", n, lambda rng: sample_scene(rng, held_out=False), pose)


def compositional(n: int = 320) -> list[Example]:
    """Questions about combinations of colour and shape that no image of the cold start or of self-play has.

    Args:
        n: Number of examples; the first ones do not depend on it.
    """
    return _split("compositional", n, lambda rng: sample_scene(rng, held_out=True), _pose_compositional)


def hallucination(n: int = 320) -> list[Example]:
    """Questions about what is absent: the true answer is no, 0 or nothing; a quarter of the images are blank.

    Args:
        n: Number of examples; the first ones do not depend on it.
    """
    return _split("hallucination", n, _sample_sparse, _pose_absent)


def write_splits(path: str | Path, n: int = 640) -> None:
    """Write the splits as the published benchmarks are: one parquet file, told apart by ``file_name``.

    Args:
        path: The file, which a ``BenchmarkSource`` reads with ``part`` ``heldout``, ``compositional`` or
            ``hallucination``.
        n: Number of held-out questions; each of the other splits has half of it.
    """
    half = n // 2
    splits = {"heldout": heldout(n), "compositional": compositional(half), "hallucination": hallucination(half)}
    write_benchmarks(path, splits)


def _split(
    name: str,
    n: int,
    sample: Callable[[np.random.Generator], Scene],
    write: Callable[[Scene, np.random.Generator], Posed],
) -> list[Example]:
    """Draw ``n`` examples, each from a seed of its own."""
    examples = []
    for index in range(n):
        rng = np.random.default_rng(derive_seed("tiny", "split", name, index))
        scene = sample(rng)
        key, posed = f"{name}/{index}", write(scene, rng)
        image = render(scene, rng)  # after the question: both draw from one generator
        answer, kind = posed.solution.answer, posed.family.kind
        examples.append(Example(key, image, posed.text, answer, problem_type=kind, image_id=key))
    return examples


def _sample_sparse(rng: np.random.Generator) -> Scene:
    return Scene(()) if rng.random() < _BLANK_FRACTION else sample_scene(rng, held_out=False)


def _pose_compositional(scene: Scene, rng: np.random.Generator) -> Posed:
    """A question that concerns a held-out combination in the scene, or once in a while one that is not there."""
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
    return _solved(scene, texts[rng.integers(len(texts))])


def _pose_absent(scene: Scene, rng: np.random.Generator) -> Posed:
    absent = [pair for pair in SEEN if pair not in scene.pairs()]
    first, second = (Noun(None, *absent[index]) for index in rng.choice(len(absent), size=2, replace=False))
    empty = [cell for cell in CELLS if scene.at(cell) is None]
    texts = (
        f"Is there a {first.singular}?",
        f"How many {first.plural} are there?",
        f"What is in {empty[rng.integers(len(empty))]}?",
        f"How many {first.plural} and {second.plural} are there in total?",
    )
    return _solved(scene, texts[rng.integers(len(texts))])


def _solved(scene: Scene, text: str) -> Posed:
    posed = work_out(scene, text)
    assert posed is not None, "the texts above follow the families' grammar"
    return posed
