import copy

import peft
import pytest
import torch

from visplay.modules.policy.weights.adapters import whole_weights


def test_every_weight_once_under_its_name(base):
    weights = dict(base.weights())
    parameters = dict(base.model.named_parameters())
    assert list(weights) == list(parameters)
    assert "lm_head.weight" not in weights  # tied to the embeddings
    assert all(weights[name] is not parameters[name] and weights[name].equal(parameters[name]) for name in weights)
    assert not any(weight.requires_grad for weight in weights.values())
    assert list(base.weight_shapes().items()) == [(name, weight.shape) for name, weight in weights.items()]


@pytest.fixture
def adapted(fresh_base):
    """The base with adapters that are not zero, and a copy of it before."""
    plain = copy.deepcopy(fresh_base.model)
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "down_proj"])
    model = peft.get_peft_model(fresh_base.model, config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(0))
    return plain, model


def test_adapters_are_merged_out_of_place(adapted):
    plain, model = adapted
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    sent = dict(whole_weights(model))
    assert list(sent) == [name for name, _ in plain.named_parameters()]
    assert all(weight.equal(before[name]) for name, weight in model.named_parameters())
    name = "model.language_model.layers.0.self_attn.q_proj"
    a, b = (before[f"base_model.model.{name}.lora_{part}.default.weight"] for part in "AB")
    expected = plain.get_submodule(name).weight + 3.0 * b @ a  # lora_alpha / r
    assert torch.allclose(sent[f"{name}.weight"], expected, atol=1e-6)
    merged = dict(model.merge_and_unload().named_parameters())
    assert all(torch.allclose(weight, merged[name], atol=1e-6) for name, weight in sent.items())


def test_adapters_that_are_merged_already_or_switched_off_are_not_added(adapted):
    plain, model = adapted
    expected = dict(whole_weights(model))
    model.merge_adapter()
    assert all(torch.allclose(weight, expected[name], atol=1e-6) for name, weight in whole_weights(model))
    model.unmerge_adapter()
    with model.disable_adapter():
        parameters = dict(plain.named_parameters())
        assert all(torch.allclose(weight, parameters[name], atol=1e-5) for name, weight in whole_weights(model))
