import sys
from collections import Counter

import numpy as np
import pytest

from visplay.tiny.digits import DigitWorld
from visplay.tiny.digits.digit_scenes import HELD_OUT, Digit, DigitScene, render, sample_scene
from visplay.tiny.digits.scans import TRAINING_SCANS, _load, _pools, ink, scans_of
from visplay.tiny.grid import CELLS


def scenes(part, n=400):
    rng = np.random.default_rng(0)
    return [sample_scene(rng, part) for _ in range(n)]


def test_scans_of_training_and_evaluation_are_disjoint_and_show_their_digit():
    _, digits = _load()
    used = {training: np.concatenate([scans_of(d, training=training) for d in range(10)]) for training in (True, False)}
    assert sorted(np.concatenate([*used.values()])) == list(range(1797))
    assert used[True].max() < TRAINING_SCANS <= used[False].min()
    assert all((digits[scans_of(d, training=True)] == d).all() for d in range(10))
    assert min(len(scans_of(d, training=False)) for d in range(10)) > 40


@pytest.mark.parametrize(("part", "training"), [("training", True), ("heldout", False), ("compositional", False)])
def test_a_scene_has_scans_of_its_part(part, training):
    drawn = [digit for scene in scenes(part, 100) for digit in scene.digits]
    assert all(digit.scan in scans_of(digit.value, training=training) for digit in drawn)


@pytest.mark.parametrize("part", ["training", "heldout"])
def test_some_digits_are_never_in_some_columns(part):
    drawn = Counter((digit.cell[0], digit.value) for scene in scenes(part) for digit in scene.digits)
    assert len(drawn) == 40 - len(HELD_OUT)
    assert not drawn.keys() & set(HELD_OUT.items())


def test_compositional_scenes_have_one_where_it_never_is():
    assert all(any(digit.held_out for digit in scene.digits) for scene in scenes("compositional"))


def test_cells_are_in_raster_order_and_the_ends_occur_once():
    for scene in scenes("training"):
        cells, values = [CELLS.index(digit.cell) for digit in scene.digits], scene.values()
        assert cells == sorted(set(cells))
        assert values.count(max(values)) == values.count(min(values)) == 1
    assert {len(scene.digits) for scene in scenes("training")} == {2, 3, 4, 5, 6}


def test_render_is_a_function_of_scene_and_generator():
    scene = DigitScene((Digit("b2", 7, int(scans_of(7, training=True)[0])),))
    first, again, other = (np.asarray(render(scene, np.random.default_rng(seed))) for seed in (3, 3, 4))
    assert (first.shape, first.dtype) == ((56, 56, 3), np.uint8)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_digit_brightens_its_own_cell_only():
    scene = DigitScene((Digit("c3", 8, int(scans_of(8, training=True)[0])),))
    blank = render(DigitScene(()), np.random.default_rng(0))
    difference = np.asarray(render(scene, np.random.default_rng(0)), dtype=float) - np.asarray(blank, dtype=float)
    mean = difference.reshape(4, 14, 4, 14, 3).mean((1, 3, 4))
    assert mean[2, 2] > 10 * np.abs(np.delete(mean.ravel(), 10)).max()


def test_ink_is_the_scan_enlarged():
    levels, _ = _load()
    assert ink(0).shape == (13, 13)
    assert ink(0).min() == 0
    assert 0.8 < ink(0).max() <= 1
    assert ink(5).mean() == pytest.approx(levels[5].mean() / 16, rel=0.05)


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    _load.cache_clear()
    _pools.cache_clear()
    with pytest.raises(ImportError, match=r"DigitWorld needs scikit-learn: install visplay\[digits\]"):
        DigitWorld().sample_scene(np.random.default_rng(0), "training")
