"""What examples/pretrained asks, and what is right."""

from collections import Counter

import numpy as np
import pytest

from examples.pretrained.arithmetic import FAMILIES, family_of, pose, pose_many, solve


@pytest.mark.parametrize(
    ("question", "family", "answer"),
    [
        ("What is 17 + 4?", "sum", "21"),
        ("What is 17 - 4?", "difference", "13"),
        ("What is 4 - 17?", "difference", "-13"),
        ("What is -4 - -17?", "difference", "13"),
        ("What is 17 * 4?", "product", "68"),
        ("Which is larger, 17 or 4?", "larger", "17"),
        ("Which is smaller, 4 or 17?", "smaller", "4"),
        ("Which is larger, 4 or 4?", "larger", "4"),
        ("What is 17 + 4", None, None),
        ("What is 17 + 4 + 1?", None, None),
        ("What is 1.7 + 4?", None, None),
        ("What is 10 / 2?", None, None),
        ("what is 17 + 4?", None, None),
        ("What is 9999999999 + 1?", None, None),
        ("", None, None),
    ],
)
def test_answers_by_hand(question, family, answer):
    assert family_of(question) == family
    assert solve(question) == answer


@pytest.mark.parametrize("family", FAMILIES)
def test_a_posed_question_has_an_answer(family):
    rng = np.random.default_rng(0)
    posed = [pose(family, rng) for _ in range(200)]
    assert {family_of(question) for question in posed} == {family}
    assert min(int(solve(question)) for question in posed) >= (1 if family != "difference" else 0)


def test_posed_questions_differ_and_are_of_all_families():
    posed = pose_many(400, np.random.default_rng(1))
    assert len(set(posed)) == 400
    assert set(Counter(map(family_of, posed)).values()) == {80}
    assert posed == pose_many(400, np.random.default_rng(1))
    assert len(pose_many(405, np.random.default_rng(1))) == 405  # all products


def test_more_than_there_are():
    with pytest.raises(ValueError, match="n: 406 questions must differ, and there are 405"):
        pose_many(406, np.random.default_rng(1))
