"""Bytes by formula, with numbers worked out by hand."""

from visplay.planning.activations import Block, Precision, backward_bytes, head_bytes, matrix_gradient, text_layer
from visplay.planning.memory import Micro, Residents, Shape, Training, activations, trained_weights, update_bytes

MIXED, FULL = Precision(2, 2), Precision()
BLOCK = Block(width=8, queries=8, keys=4, heads=2, inner=16, gated=True, weights=500, largest=128)


def test_a_text_layer_in_float32():
    # two norms' inputs and factors, queries, keys, values and output, logsumexps, four inner states
    frozen = 2 * (32 + 4) + 4 * (8 + 4 + 4 + 8) + 8 + 3 * 64
    learned = 64 + 2 * 32 + 2 * 32  # the last inner state, normalised states, what goes into products
    assert text_layer(BLOCK, 1, FULL, trained=False) == frozen
    assert text_layer(BLOCK, 3, FULL) == 3 * (frozen + learned)


def test_autocast_keeps_every_cast():
    frozen = 2 * (32 + 4) + 2 * (8 + 4 + 4 + 8) + 8 + 3 * 32
    learned = 32 + 2 * 32 + 5 * 16  # five products take the normalised states, each a cast of its own
    assert text_layer(BLOCK, 1, MIXED) == frozen + learned + 2 * 500
    assert text_layer(BLOCK, 1, Precision(2, 4)) == text_layer(BLOCK, 1, MIXED) + 2 * 24 + 2 * 8


def test_the_backward_pass_is_widest_in_the_mlp():
    assert backward_bytes(BLOCK, 100, FULL, accumulated=True) == 2 * 100 * 64
    assert backward_bytes(BLOCK, 1, FULL, accumulated=True) == 64 + 512
    assert backward_bytes(BLOCK, 1, FULL, accumulated=False) == 2 * 64 + 512
    assert matrix_gradient(128, MIXED) == 128 * 6


def test_the_head_holds_one_chunk_of_logits():
    one = head_bytes(512, 8, 100, FULL, trained=True)
    assert one == 512 * 8 * 4 + 512 * 100 * 4 + 8 * 100 * 4
    assert head_bytes(2048, 8, 100, FULL, trained=True) - one == 1536 * 8 * 4  # only hidden states grow
    assert head_bytes(512, 8, 100, FULL, trained=False) == one - 8 * 100 * 4


def _shape(tied=True):
    parts = {"vision_tower": 1000, "projector": 100, "language_model": 2000}
    return Shape(BLOCK, 3, BLOCK, 2, vocabulary=100, tied=tied, parts=parts)


def test_what_is_frozen_has_no_gradient():
    training = Training(frozen=frozenset({"vision_tower"}))
    assert trained_weights(_shape(), training) == 2100
    micro = Micro(tokens=50, scored=20, patches=40)
    less = activations(_shape(), micro, training)
    assert less.kept < activations(_shape(), micro, Training()).kept


def test_checkpointing_keeps_the_input_of_each_layer():
    micro = Micro(tokens=1000, scored=20, patches=0)
    all_kept, inputs = (activations(_shape(), micro, Training(checkpointed=c)).kept for c in (False, True))
    assert all_kept - inputs == 3 * (text_layer(BLOCK, 1000, FULL) - 1000 * 8 * 4)


def test_gradients_that_come_up_are_part_of_the_peak():
    micro = Micro(tokens=2, scored=1, patches=4)  # activations are small beside the weights
    grown = activations(_shape(), micro, Training(accumulated=False)).peak
    assert grown > 4 * (3 * 500 + 2 * 500)
    assert activations(_shape(), micro, Training(accumulated=True)).peak < grown


def test_a_bonus_for_entropy_needs_two_more_chunks_of_logits():
    micro = Micro(tokens=50, scored=2000, patches=0)
    plain, bonus = (activations(_shape(), micro, Training(entropy=e)).logits for e in (False, True))
    assert bonus - plain == 2 * 4 * 512 * 100


def test_weights_cut_over_devices_are_gathered_layer_by_layer():
    micro, training = (Micro(tokens=50, scored=20, patches=40),), Training(MIXED)
    whole, cut = (update_bytes(_shape(), training, Residents(shards=shards), micro) for shards in (1, 4))
    assert cut["gradients"] == whole["gradients"] // 4 == 3100
    assert cut["optimizer states"] == whole["optimizer states"] // 4 == 6200
    assert "gathered weights" not in whole
    assert cut["gathered weights"] == 4 * (3100 - 5 * 500)  # what is in none of the layers
    tokens = Micro(tokens=5000, scored=20, patches=0)  # so that the layers are where the peak is
    training = Training(MIXED, checkpointed=True)
    plain, layers = (activations(_shape(), tokens, training, sharded).peak for sharded in (False, True))
    assert layers - plain == 4 * 4 * 500  # two layers, a gradient, and its copy
