"""What holds in every small world."""

from collections import Counter

import numpy as np
import pytest

from visplay.tiny import QUESTION_KINDS
from visplay.tiny.cold_start.tokenizer import build_tokenizer
from visplay.tiny.digits import DigitWorld
from visplay.tiny.grid import CELLS
from visplay.tiny.self_play_images import image_name, labelled_examples, silver_accuracy, silver_truth, write_images
from visplay.tiny.shapes import SHAPES
from visplay.tiny.splits import compositional, hallucination, heldout

DIGITS = DigitWorld()
SPLITS = (heldout, compositional, hallucination)
each_world = pytest.mark.parametrize("world", [SHAPES, DIGITS], ids=lambda world: world.name)


@each_world
@pytest.mark.parametrize("split", SPLITS)
def test_a_split_is_deterministic_and_grows_at_its_end(world, split):
    few, many = split(5, world), split(9, world)
    assert [(row.key, row.problem, row.answer) for row in few] == [(r.key, r.problem, r.answer) for r in many[:5]]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(few, many, strict=False))


@each_world
def test_heldout_has_every_family_and_every_type(world):
    rows = heldout(160, world)
    assert {world.family_of(row.problem).pattern for row in rows} == {family.pattern for family in world.families}
    assert set(Counter(row.problem_type for row in rows)) == set(QUESTION_KINDS)


@each_world
def test_hallucination_answers_are_that_nothing_is_there(world):
    assert {row.answer for row in hallucination(100, world)} == {"no", "0", "nothing"}


@each_world
def test_no_split_shares_an_image_with_self_play(world):
    known = set(silver_truth(100, 0, world))
    assert len(known) == 100
    assert not known & {image_name(row.image) for split in SPLITS for row in split(50, world)}


@each_world
def test_contents_and_captions_name_what_is_in_the_cells(world):
    rng = np.random.default_rng(0)
    for _ in range(20):
        scene = world.sample_scene(rng, "training")
        words = world.caption(scene).split()
        for cell in CELLS:
            indices = world.content_of(scene, cell)
            named = {group[index] for group, index in zip(world.contents, indices, strict=True)}
            assert (cell in world.full_cells(scene)) == (cell in words) == (named != {"nothing"})
    assert world.caption(world.blank()) == ""


@each_world
def test_words_of_contents_differ_in_their_last_token(world):
    tokenizer = build_tokenizer(0, world)
    for group in world.contents:
        assert len({tokenizer.encode(" " + word)[-1] for word in group}) == len(group)


@each_world
def test_search_families_list(world):
    names = {family.name for family in world.families}
    assert all({*chosen} <= names for chosen in world.search_families)
    assert "content" in names


def test_images_and_labels_are_of_the_world(tmp_path):
    names = {path.name for path in write_images(tmp_path, 4, 0, DIGITS).iterdir()}
    assert names == set(silver_truth(4, 0, DIGITS))
    assert not names & set(silver_truth(4, 0))
    rows = labelled_examples(4, 0, 3, DIGITS)
    assert {row.image_id for row in rows} == names
    assert silver_accuracy([(r.image_id, r.problem, r.answer) for r in rows], 4, 0, DIGITS).accuracy == 1
    assert silver_accuracy([(r.image_id, r.problem, r.answer) for r in rows], 4, 0).rows == 0
