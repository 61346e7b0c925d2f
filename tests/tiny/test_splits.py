from collections import Counter

import numpy as np
import pytest

from visplay.tiny.self_play_images import image_name, silver_truth
from visplay.tiny.shapes.shape_scenes import HELD_OUT
from visplay.tiny.splits import compositional, hallucination, heldout

SPLITS = (heldout, compositional, hallucination)


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_is_deterministic_and_grows_at_its_end(split):
    few, many = split(5), split(9)
    assert [(row.key, row.problem, row.answer) for row in few] == [(r.key, r.problem, r.answer) for r in many[:5]]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(few, many, strict=False))
    assert len({row.key for row in many}) == 9


def test_default_sizes():
    assert [len(split()) for split in SPLITS] == [640, 320, 320]


def test_heldout_covers_all_question_types():
    assert set(Counter(row.problem_type for row in heldout(100))) == {
        "numerical",
        "yes or no",
        "short answer",
        "multiple choice",
    }


def test_compositional_questions_concern_a_held_out_pair():
    names = [f"{colour} {kind}" for colour, kind in HELD_OUT]
    for row in compositional(100):
        assert any(name in row.problem or name == row.answer for name in names)


def test_hallucination_answers_are_that_nothing_is_there():
    assert {row.answer for row in hallucination(100)} == {"no", "0", "nothing"}


def test_no_split_shares_an_image_with_self_play():
    known = set(silver_truth(200, 0))
    assert not known & {image_name(row.image) for split in SPLITS for row in split(100)}
