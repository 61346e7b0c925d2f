"""Images, questions and lessons of the shapes world are those that the embedded base was made with."""

import hashlib
import json

import numpy as np
import pytest

from visplay.tiny.cold_start.curriculum import perceive, relax, search, search_simply, study
from visplay.tiny.cold_start.tokenizer import build_tokenizer
from visplay.tiny.self_play_images import labelled_examples, silver_truth
from visplay.tiny.shapes import SHAPES
from visplay.tiny.splits import compositional, hallucination, heldout


def digest(parts):
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part if isinstance(part, bytes) else str(part).encode())
    return sha.hexdigest()[:16]


def texts(row):
    return row.key, row.problem, row.answer, row.problem_type


def taught(lesson):
    rng = np.random.default_rng(0)
    for _ in range(32):
        for turn in lesson(SHAPES, SHAPES.sample_scene(rng, "training"), rng):
            yield from (turn.template, turn.target, turn.question)


@pytest.mark.parametrize(
    ("split", "known"),
    [(heldout, "c20d85a71581bb70"), (compositional, "92c1157b9ad9e877"), (hallucination, "8cd24524747e99b3")],
)
def test_splits(split, known):
    rows = split(64)
    assert digest(p for r in rows for p in (r.key, np.asarray(r.image).tobytes(), *texts(r)[1:])) == known


def test_images_of_self_play_and_their_labelled_questions():
    assert digest(silver_truth(64, 0)) == "c37759b2e590aadf"
    assert digest(part for row in labelled_examples(32, 0, 2) for part in texts(row)) == "4afda3faca1df996"


@pytest.mark.parametrize(
    ("lesson", "known"),
    [
        (perceive, "1ccdefdd7dcc1c6c"),
        (search_simply, "c3a02863c9c0bd41"),
        (search, "9682e6215ae39e02"),
        (study, "8c33163bfbbe49a1"),
        (relax, "2575bf865362adb0"),
    ],
)
def test_lessons(lesson, known):
    assert digest(taught(lesson)) == known


def test_tokenizer():
    assert digest([json.dumps(build_tokenizer(0).get_vocab(), sort_keys=True)]) == "d7a365cceaa26335"
