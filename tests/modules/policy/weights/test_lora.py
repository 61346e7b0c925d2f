"""Policies that are LoRA adapters: two on one frozen base, scored, trained, merged, saved and loaded."""

import gc
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from visplay.modules import GRPOConfig, LoRA, Questioner, Qwen2_5_VL, Reasoner, Tuning, VisPlay
from visplay.modules.policy.weights.model_source import ModelSource
from visplay.tiny import ANSWER, ASK, BASE

LANGUAGE = ("vision_tower", "projector")


def make_policies(lora=LoRA(rank=4, alpha=8), freeze=LANGUAGE, **settings):  # noqa: B008
    """Reasoner and Questioner of a module whose weights are loaded."""
    vlm = Qwen2_5_VL(str(BASE), tuning=Tuning(freeze, lora), **settings)
    config = GRPOConfig(learning_rate=1e-2)
    module = VisPlay(vlm, Questioner(config, ASK), Reasoner(config, ANSWER))
    module._trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"))
    module.configure_model()
    return module, module.reasoner.vlm, module.questioner.vlm


@torch.no_grad()
def perturb(policy, seed=0):
    """Make the adapter's product something."""
    generator = torch.Generator().manual_seed(seed)
    for weight in policy.trained_weights():
        weight.add_(torch.randn(weight.shape, generator=generator) * 0.05)


def scored(policy, seed=0):
    """Log-probabilities (2, 2, 5) of made-up answers about two images."""
    images = [Image.new("RGB", (56, 56), color) for color in ("red", "blue")]
    prompts = [policy.encode(str(i), ANSWER, p, question=f"How many? {i}") for i, p in enumerate(images)]
    ids = torch.randint(0, 400, (2, 2, 5), generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(5) < torch.tensor([[5, 3], [1, 4]])[..., None]
    return policy.logps(prompts, ids, mask)[0]


def merged(policy):
    """A whole model with the weights that an engine would be sent."""
    plain = Qwen2_5_VL(str(BASE))
    plain.load()
    missing, unexpected = plain.model.load_state_dict(dict(policy.weights()), strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])  # tied
    return plain


def test_two_adapters_on_one_base():
    module, reasoner, questioner = make_policies()
    assert reasoner.model is questioner.model
    trained = [set(map(id, policy.trained_weights())) for policy in (reasoner, questioner)]
    assert not trained[0] & trained[1]
    learning = {id(weight) for weight in module.parameters() if weight.requires_grad}
    assert learning == trained[0] | trained[1]
    for optimizer, own in zip(module.configure_optimizers(), reversed(trained), strict=True):
        assert {id(weight) for group in optimizer.param_groups for weight in group["params"]} == own
    assert all(weight.dtype == torch.float32 for weight in reasoner.trained_weights())


def test_an_adapter_begins_as_the_base_and_its_values_follow_from_the_seed(base):
    _, reasoner, questioner = make_policies()
    torch.testing.assert_close(scored(reasoner), scored(base), rtol=0, atol=0)
    torch.rand(3)
    again = make_policies()[1]
    assert again.fingerprint() == reasoner.fingerprint() != questioner.fingerprint()
    assert make_policies(LoRA(rank=4, alpha=8, seed=1))[1].fingerprint() != reasoner.fingerprint()


def test_each_policy_computes_with_its_own_adapter_whichever_was_used_last(base):
    _, reasoner, questioner = make_policies()
    perturb(questioner)
    asked = scored(questioner)
    torch.testing.assert_close(scored(reasoner), scored(base), rtol=0, atol=0)
    torch.testing.assert_close(scored(questioner), asked, rtol=0, atol=0)
    assert (asked - scored(reasoner)).abs().max() > 0.1
    sent = dict(questioner.weights())
    assert not sent["model.language_model.layers.0.mlp.up_proj.weight"].equal(
        dict(reasoner.weights())["model.language_model.layers.0.mlp.up_proj.weight"]
    )


def test_gradients_reach_an_adapter_though_another_policy_is_used_in_between():
    _, reasoner, questioner = make_policies()
    perturb(reasoner)
    loss = scored(reasoner).sum()
    scored(questioner)
    loss.backward()
    expected = [weight.grad.clone() for weight in reasoner.trained_weights()]
    assert all(weight.grad is None for weight in questioner.trained_weights())
    assert all(weight.grad is None for weight in reasoner.base().model.parameters() if not weight.requires_grad)
    for weight in reasoner.trained_weights():
        weight.grad = None
    scored(reasoner).sum().backward()
    assert all(weight.grad.equal(before) for weight, before in zip(reasoner.trained_weights(), expected, strict=True))


def test_gradient_checkpointing_computes_again_with_the_adapter_of_the_first_time():
    gradients = []
    for checkpointing in (False, True):
        _, reasoner, questioner = make_policies(gradient_checkpointing=checkpointing)
        perturb(reasoner)
        loss = scored(reasoner).sum()
        scored(questioner.base())
        loss.backward()
        gradients.append([weight.grad for weight in reasoner.trained_weights()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-5, atol=1e-6)


def test_dropout_is_of_training_alone():
    gradients = []
    for checkpointing in (False, True):
        _, reasoner, _ = make_policies(LoRA(rank=4, dropout=0.5), gradient_checkpointing=checkpointing)
        perturb(reasoner)
        reference, sampled = reasoner.frozen_copy(), scored(reasoner.eval())
        reasoner.train()
        assert scored(reference).equal(sampled)
        torch.manual_seed(0)
        learning = scored(reasoner)
        learning.sum().backward()  # computed again with the same parts left out
        gradients.append([weight.grad for weight in reasoner.trained_weights()])
        assert (learning - sampled).abs().max() > 0.01
    for once, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, once, rtol=1e-5, atol=1e-6)


def test_packed_rows_are_padded_rows(monkeypatch):
    _, reasoner, _ = make_policies(LoRA(rank=4), freeze=())
    perturb(reasoner)
    packed = scored(reasoner)
    monkeypatch.setattr(Qwen2_5_VL, "packs", False)
    assert reasoner.why_not_packed() is not None
    torch.testing.assert_close(scored(reasoner), packed, rtol=0, atol=1e-5)


@pytest.mark.parametrize("freeze", [LANGUAGE, ("language_model",), ()])
def test_merged_weights_score_as_the_adapter_does(freeze):
    _, reasoner, _ = make_policies(freeze=freeze)
    perturb(reasoner)
    plain = merged(reasoner)
    torch.testing.assert_close(scored(plain), scored(reasoner), rtol=0, atol=1e-5)
    assert (scored(plain) - scored(reasoner.base())).abs().max() > 0.05
    torch.testing.assert_close(scored(merged(reasoner.base())), scored(plain.base()), rtol=0, atol=0)


def test_references_do_not_move_and_leave_nothing_behind(base):
    _, reasoner, questioner = make_policies()
    perturb(reasoner)
    before, names = scored(reasoner).detach(), set(dict(reasoner.model.named_parameters()))
    start, again, first = reasoner.frozen_copy(), reasoner.frozen_copy(), reasoner.base()
    perturb(reasoner, seed=1)
    perturb(questioner, seed=2)
    for copy in (start, again):
        torch.testing.assert_close(scored(copy), before, rtol=0, atol=0)
        assert copy.model is reasoner.model
        assert not copy.trained_weights()
    torch.testing.assert_close(scored(first), scored(base), rtol=0, atol=0)
    assert (scored(reasoner) - before).abs().max() > 0.1
    assert (start.fingerprint(), first.fingerprint()) == (again.fingerprint(), base.fingerprint())
    scored(start)
    del start, again, copy, first
    gc.collect()
    assert set(dict(reasoner.model.named_parameters())) == names
    assert (scored(reasoner) - before).abs().max() > 0.1


def test_an_adapter_starts_again_as_it_began_and_the_other_stays():
    _, reasoner, questioner = make_policies(LoRA(rank=4, alpha=8, dropout=0.1))
    perturb(questioner)
    begun, other = [[w.clone() for w in policy.trained_weights()] for policy in (reasoner, questioner)]
    names, version = set(reasoner.adapters.model.state_dict()), reasoner.version
    perturb(reasoner)
    reasoner.start_again()
    assert all(map(torch.equal, reasoner.trained_weights(), begun))
    assert all(map(torch.equal, questioner.trained_weights(), other))
    assert all(weight.requires_grad for policy in (reasoner, questioner) for weight in policy.trained_weights())
    assert set(reasoner.adapters.model.state_dict()) == names, "nothing is left behind"
    assert reasoner.version == version + 1


def test_the_state_is_the_adapter_and_not_the_base():
    module, reasoner, questioner = make_policies()
    perturb(reasoner)
    perturb(questioner, seed=1)
    state = module.state_dict()
    assert all(".lora_A.weight" in name or ".lora_B.weight" in name for name in state)
    assert len(state) == len(reasoner.trained_weights()) + len(questioner.trained_weights())
    other, *policies = make_policies()
    other.load_state_dict(state)
    for policy, like in zip(policies, (reasoner, questioner), strict=True):
        for weight, expected in zip(policy.trained_weights(), like.trained_weights(), strict=True):
            assert weight.equal(expected)
    torch.testing.assert_close(scored(policies[0]), scored(reasoner), rtol=0, atol=0)


@pytest.mark.parametrize(("change", "words"), [("missing", "Missing"), ("more", "Unexpected"), ("shape", "size mis")])
def test_a_state_that_does_not_fit_is_refused_and_the_base_stays(change, words):
    module, reasoner, _ = make_policies()
    state, base = dict(module.state_dict()), reasoner.base().fingerprint()
    name = next(name for name in state if name.startswith("reasoner."))
    if change == "missing":
        del state[name]
    elif change == "shape":
        state[name] = torch.zeros(3)
    else:
        state["reasoner.vlm.model.model.language_model.norm.weight"] = torch.zeros(128)
    with pytest.raises(RuntimeError, match=words):
        module.load_state_dict(state)
    assert reasoner.base().fingerprint() == base


def test_a_role_is_taken_from_a_checkpoint_of_adapters(tmp_path):
    module, reasoner, questioner = make_policies()
    perturb(reasoner)
    perturb(questioner, seed=1)
    path = tmp_path / "run.ckpt"
    torch.save({"state_dict": module.state_dict()}, path)
    assert path.stat().st_size < (BASE / "model.safetensors").stat().st_size
    like = Qwen2_5_VL(str(BASE), tuning=reasoner.tuning)
    for role, policy in (("reasoner", reasoner), ("questioner", questioner)):
        loaded = ModelSource(str(path), role).load(like)
        torch.testing.assert_close(scored(loaded), scored(policy), rtol=0, atol=0)
    again = ModelSource(str(path)).load(reasoner)  # a loaded one is left alone
    assert again.model is not reasoner.model
    with pytest.raises(ValueError, match="holds adapters, and tuning.lora of the configuration is for whole weights"):
        ModelSource(str(path)).load(Qwen2_5_VL(str(BASE)))


def test_targets_and_parts_decide_what_is_adapted():
    def adapted(**settings):
        _, reasoner, _ = make_policies(**settings)
        return {name.rpartition(".lora_")[0] for name, _ in reasoner.named_weights() if ".lora_" in name}

    text = adapted()
    assert {name.rpartition(".")[2] for name in text} == {
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    }
    assert all("language_model" in name for name in text)
    assert all(".visual.merger." in name for name in adapted(freeze=("language_model", "vision_tower")))
    few = adapted(lora=LoRA(targets=["q_proj", "v_proj"]))
    assert few == {name for name in text if name.endswith(("q_proj", "v_proj"))}
    with pytest.raises(ValueError, match=r"targets: the linear layers of the parts .*'q_proj'.*'z_proj'"):
        make_policies(LoRA(targets=["q_proj", "z_proj"]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank: 0 must be at least 1"),
        ({"alpha": 0.0}, "alpha: 0.0 must be above 0"),
        ({"dropout": 1.0}, "dropout: 1.0 must be at least 0 and below 1"),
        ({"targets": []}, "targets: give the last name"),
    ],
)
def test_adapters_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        LoRA(**settings)


def test_one_shared_policy():
    for lora in (None, LoRA(rank=2)):
        vlm = Qwen2_5_VL(str(BASE), tuning=Tuning((), lora))
        config = GRPOConfig()
        module = VisPlay(vlm, Questioner(config, ASK), Reasoner(config, ANSWER), shared_policy=True)
        module._trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"))
        module.configure_model()
        assert module.questioner.vlm is module.reasoner.vlm
        first, second = module.configure_optimizers()
        assert [id(w) for w in first.param_groups[0]["params"]] == [id(w) for w in second.param_groups[0]["params"]]
        anew = GRPOConfig(start_from="base")
        for configs in ((anew, config), (config, anew)):
            with pytest.raises(ValueError, match="start_from: with shared_policy .* shared_policy: false"):
                VisPlay(vlm, Questioner(configs[0], ASK), Reasoner(configs[1], ANSWER), shared_policy=True)
