import numpy as np
import pytest

from visplay.tiny import QUESTION_KINDS
from visplay.tiny.shapes import SHAPES
from visplay.tiny.shapes.nouns import Noun, pick_noun, read_noun
from visplay.tiny.shapes.shape_scenes import HELD_OUT, Scene, Shape, sample_scene

SCENE = Scene(
    (
        Shape("a1", "small", "red", "circle"),
        Shape("c1", "large", "red", "square"),
        Shape("c2", "large", "blue", "circle"),
        Shape("d4", "small", "red", "circle"),
    )
)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Is there a blue circle?", "yes"),
        ("Is there a green circle?", "no"),
        ("What is in c1?", "red square"),
        ("What is in b3?", "nothing"),
        ("How many red shapes are there?", "3"),
        ("How many triangles are there?", "0"),
        ("How many small circles are there?", "2"),
        ("How many large red squares are there?", "1"),
        ("How many shapes are there?", "4"),
        ("How many shapes are in row 1?", "2"),
        ("How many shapes are in column c?", "2"),
        ("Are there more circles than squares?", "yes"),
        ("Are there more squares than blue shapes?", "no"),
        ("How many red circles and blue circles are there in total?", "3"),
        ("Which shape is in d4? A) square B) triangle C) circle D) nothing", "C"),
        ("Which colour is in a4? A) red B) nothing C) blue D) green E) yellow", "B"),
        ("Which are there more of? A) equally many B) red shapes C) circles", "A"),
        ("Which are there more of? A) equally many B) squares C) circles", "C"),
        ("  What is in c1? ", "red square"),
    ],
)
def test_solve_by_hand(question, answer):
    assert SHAPES.solve(SCENE, question) == answer


@pytest.mark.parametrize(
    "question",
    [
        "",
        "What is in e1?",
        "What is in c1",
        "How many purple shapes are there?",
        "How many red circles are there? How many?",
        "Which shape is in d4? A) square B) triangle",
        "Which are there more of? A) squares B) equally",
        "Describe the image.",
    ],
)
def test_off_grammar_is_none(question):
    assert SHAPES.solve(SCENE, question) is None


def test_every_family_poses_what_it_can_solve():
    rng = np.random.default_rng(0)
    for family in SHAPES.families:
        for _ in range(50):
            scene = sample_scene(rng, held_out=False)
            text = family.pose(scene, rng)
            assert SHAPES.family_of(text).kind == family.kind in QUESTION_KINDS
            assert SHAPES.solve(scene, text) is not None


def test_training_questions_never_name_a_held_out_pair():
    rng = np.random.default_rng(0)
    texts = [SHAPES.pose(sample_scene(rng, held_out=False), rng).text for _ in range(2000)]
    assert not any(f"{colour} {kind}" in text for text in texts for colour, kind in HELD_OUT)


def test_no_answer_is_a_safe_bet():
    rng = np.random.default_rng(0)
    posed = [SHAPES.pose(sample_scene(rng, held_out=False), rng) for _ in range(2000)]
    truths = [item.solution.answer for item in posed if item.family.kind == "yes or no"]
    assert 0.35 < truths.count("yes") / len(truths) < 0.65


def test_listing_names_the_cells_that_count():
    assert SHAPES.work_out(SCENE, "How many red shapes are there?").solution.listing == "a1 c1 d4"
    assert SHAPES.work_out(SCENE, "Are there more squares than triangles?").solution.listing == "c1 than none"


def test_noun_reads_what_it_writes():
    rng = np.random.default_rng(0)
    for _ in range(50):
        noun = pick_noun(SCENE, rng, 2)
        assert read_noun(noun.plural) == read_noun(noun.singular) == noun
    assert read_noun("shapes") == Noun()
