"""Weights that lie elsewhere; "meta" is the other device that every machine has."""

import pytest
import torch

from visplay.modules import LoRA, Qwen2_5_VL, Tuning
from visplay.modules.policy.weights.placement import CPU, move, placed
from visplay.tiny import BASE

META = torch.device("meta")


def tensors(policy):
    return {name: tensor.data_ptr() for name, tensor in [*policy.named_parameters(), *policy.named_buffers()]}


def devices(policy):
    return {tensor.device for tensor in [*policy.parameters(), *policy.buffers()]}


def test_weights_and_buffers_are_elsewhere_for_a_while(fresh_base):
    before, weights = tensors(fresh_base), list(fresh_base.parameters())
    with placed(fresh_base, META):
        assert devices(fresh_base) == {META}
        assert fresh_base.device == META
    assert tensors(fresh_base) == before
    assert all(now is then for now, then in zip(fresh_base.parameters(), weights, strict=True))  # an optimizer's too
    assert fresh_base.head_weight is fresh_base.model.get_input_embeddings().weight


def test_they_come_home_after_an_error(fresh_base):
    before = tensors(fresh_base)
    with pytest.raises(RuntimeError, match="stop"), placed(fresh_base, META):
        raise RuntimeError("stop")
    assert tensors(fresh_base) == before


def test_nothing_is_copied_where_they_are_already(fresh_base):
    before = tensors(fresh_base)
    with placed(fresh_base, CPU):
        assert tensors(fresh_base) == before


def test_adapters_stay_on_the_model_they_fraction():
    policy = Qwen2_5_VL(str(BASE), tuning=Tuning((), LoRA(rank=2)))
    policy.load()
    move(policy, META)
    with placed(policy, META):
        assert devices(policy) == {CPU}


def test_weights_are_given_where_an_engine_wants_them(fresh_base):
    assert {weight.device for _, weight in fresh_base.weights(META)} == {META}
    assert {weight.device for _, weight in fresh_base.weights()} == {CPU}
