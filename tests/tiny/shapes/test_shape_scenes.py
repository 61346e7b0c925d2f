import numpy as np
import pytest

from visplay.tiny.grid import CELLS
from visplay.tiny.shapes.shape_scenes import HELD_OUT, Scene, Shape, render, sample_scene


def test_training_scenes_never_hold_a_held_out_pair():
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng, held_out=False) for _ in range(500)]
    assert not any(scene.pairs() & set(HELD_OUT) for scene in scenes)
    assert {len(scene.shapes) for scene in scenes} == {2, 3, 4, 5, 6, 7}


def test_held_out_scenes_always_hold_one():
    rng = np.random.default_rng(0)
    assert all(sample_scene(rng, held_out=True).pairs() & set(HELD_OUT) for _ in range(200))


def test_shapes_are_in_raster_order_and_one_to_a_cell():
    rng = np.random.default_rng(1)
    for _ in range(50):
        cells = [CELLS.index(shape.cell) for shape in sample_scene(rng, held_out=False).shapes]
        assert cells == sorted(set(cells))


def test_render_is_a_function_of_scene_and_generator():
    scene = Scene((Shape("b2", "large", "red", "circle"),))
    first, again, other = (np.asarray(render(scene, np.random.default_rng(seed))) for seed in (3, 3, 4))
    assert first.shape == (56, 56, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("kind", ["circle", "square", "triangle"])
def test_a_shape_colours_its_own_cell_only(kind):
    scene = Scene((Shape("c3", "large", "green", kind),))
    difference = np.abs(
        np.asarray(render(scene, np.random.default_rng(0)), dtype=float)
        - np.asarray(render(Scene(()), np.random.default_rng(0)), dtype=float)
    ).reshape(4, 14, 4, 14, 3)
    mean = difference.mean((1, 3, 4))
    assert mean[2, 2] > 2 * np.delete(mean.ravel(), 10).max()
