"""Operations by sizes alone, against the formula of the configuration, which is tested against torch's own counter."""

from dataclasses import replace

import pytest

from benchmarks.costs import read_shape
from benchmarks.flops import Work as ByConfiguration
from benchmarks.flops import forward_flops, update_flops
from benchmarks.models import SHAPES, make_config
from visplay.planning.activations import Adapted
from visplay.planning.costs.operations import Reading, causal_pairs, forward_operations, training_operations
from visplay.planning.memory import Training

READING = Reading(tokens=1000, pairs=400_000, scored=64, images=2, patches=32 * 32)
SAME = ByConfiguration(text_tokens=1000, text_pairs=400_000, head_rows=64, grids=[(1, 32, 32)] * 2)


@pytest.fixture(scope="module", params=["20m", "3b"])
def model(request, tmp_path_factory):
    return make_config(SHAPES[request.param]), read_shape(request.param, tmp_path_factory.mktemp("shape"))


def test_a_forward_pass(model):
    config, shape = model
    assert forward_operations(shape, READING) == sum(forward_flops(config, SAME).values())


def test_an_update_scores_twice_and_embeds_patches_once(model):
    """What the other formula leaves out: the head's chunks are made twice; the first input needs no gradient."""
    config, shape = model
    parts = forward_flops(config, SAME)
    expected = update_flops(config, SAME) + parts["head"] + parts["patch embedding"]
    assert training_operations(shape, READING, Training()) == expected


def test_what_is_frozen_or_computed_again(model):
    config, shape = model
    parts = forward_flops(config, SAME)
    vision = parts["vision tower"] + parts["patch embedding"]
    whole = training_operations(shape, READING, Training())
    frozen = training_operations(shape, READING, Training(frozen=frozenset({"vision_tower", "projector"})))
    assert whole - frozen == 2 * vision
    again = training_operations(shape, READING, Training(checkpointed=True))
    assert again - whole == sum(parts.values()) - parts["head"]
    adapted = replace(shape, adapters={"language_model": 1}, text=replace(shape.text, adapters=Adapted(*[1] * 6)))
    products = parts["language model"] + parts["head"]
    assert whole - training_operations(adapted, READING, Training()) == 2 * vision + products


def test_causal_pairs():
    assert causal_pairs(1) == 1
    assert causal_pairs(4, before=10) == 10 + 11 + 12 + 13 + 4
