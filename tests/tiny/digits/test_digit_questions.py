import numpy as np
import pytest

from visplay.tiny import QUESTION_KINDS
from visplay.tiny.digits import DigitWorld
from visplay.tiny.digits.digit_scenes import HELD_OUT, Digit, DigitScene

WORLD = DigitWorld()
SCENE = DigitScene((Digit("a1", 3, 0), Digit("c1", 8, 0), Digit("c2", 3, 0), Digit("d4", 9, 0), Digit("b4", 0, 0)))


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Are there any 3s?", "yes"),
        ("Are there any 7s?", "no"),
        ("Are there any even digits?", "yes"),
        ("What is in c1?", "8"),
        ("What is in b3?", "nothing"),
        ("How many 3s are there?", "2"),
        ("How many odd digits are there?", "3"),
        ("How many digits are there?", "5"),
        ("What is the sum of row 1?", "11"),
        ("What is the sum of column c?", "11"),
        ("What is the sum of row 3?", "0"),
        ("What is the sum of c1 and d4?", "17"),
        ("What is the sum of c1 and a4?", "8"),
        ("What is the largest digit?", "9"),
        ("What is the largest even digit?", "8"),
        ("What is the smallest odd digit?", "3"),
        ("Where is the largest digit?", "d4"),
        ("Where is the smallest digit?", "b4"),
        ("Are there more odd digits than even digits?", "yes"),
        ("Are there more 8s than 3s?", "no"),
        ("What is in c1? A) 3 B) nothing C) 8 D) 1", "C"),
        ("What is in a4? A) 3 B) nothing C) 8 D) 1", "B"),
        ("Which are there more of? A) 9s B) equally many C) 8s", "B"),
        ("Which are there more of? A) 9s B) equally many C) 3s", "C"),
        ("  What is in c1? ", "8"),
    ],
)
def test_solve_by_hand(question, answer):
    assert WORLD.solve(SCENE, question) == answer


@pytest.mark.parametrize(
    "question",
    [
        "",
        "What is in e1?",
        "What is in c1",
        "How many 12s are there?",
        "What is the sum of c1 and c1?",
        "What is in c1? A) 3 B) nothing",
        "Which are there more of? A) 9s B) 8s C) 3s",
        "Is there a red circle?",
        "Describe the image.",
    ],
)
def test_off_grammar_is_none(question):
    assert WORLD.solve(SCENE, question) is None


def test_where_has_no_answer_if_there_are_two_or_none():
    twice = DigitScene((Digit("a1", 9, 0), Digit("b1", 9, 0), Digit("c1", 2, 0)))
    assert WORLD.solve(twice, "Where is the largest digit?") is None
    assert WORLD.solve(twice, "Where is the smallest digit?") == "c1"
    assert WORLD.solve(DigitScene(()), "Where is the largest digit?") is None
    assert WORLD.solve(DigitScene(()), "What is the largest digit?") == "nothing"


def test_every_family_poses_what_it_can_solve():
    rng = np.random.default_rng(0)
    for family in WORLD.families:
        for _ in range(50):
            scene = WORLD.sample_scene(rng, "training")
            text = family.pose(scene, rng)
            assert WORLD.family_of(text) is family
            assert family.kind in QUESTION_KINDS
            assert WORLD.solve(scene, text) is not None


def test_no_answer_is_a_safe_bet():
    rng = np.random.default_rng(0)
    posed = [WORLD.pose(WORLD.sample_scene(rng, "training"), rng) for _ in range(2000)]
    truths = [item.solution.answer for item in posed if item.family.kind == "yes or no"]
    assert 0.35 < truths.count("yes") / len(truths) < 0.65
    letters = [item.solution.answer for item in posed if item.family.kind == "multiple choice"]
    assert max(map(letters.count, "ABCD")) / len(letters) < 0.4


@pytest.mark.parametrize(
    ("question", "listing"),
    [
        ("How many 3s are there?", "a1 c2"),
        ("Are there more 7s than 3s?", "none than a1 c2"),
        ("What is the sum of row 1?", "3 8"),
        ("What is the sum of a1 and a2?", "3 and none"),
        ("What is the largest odd digit?", "3 3 9"),
        ("Where is the largest digit?", "3 8 3 9 0"),
    ],
)
def test_listing_names_what_matters(question, listing):
    assert WORLD.work_out(SCENE, question).solution.listing == listing


def test_compositional_questions_concern_a_digit_where_it_never_is():
    rng = np.random.default_rng(0)
    for _ in range(200):
        scene = WORLD.sample_scene(rng, "compositional")
        cells = [digit.cell for digit in scene.digits if digit.held_out]
        text = WORLD.write_compositional(scene, rng)
        assert any(name in text for name in [*cells, *(f"{value}s" for value in HELD_OUT.values())])
        assert WORLD.solve(scene, text) is not None
