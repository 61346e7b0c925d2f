"""LoRA on every family: two adapters on one base that learn, are switched, and leave the base as it was."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from families import FAMILIES
from visplay.callbacks import TransformersRollout
from visplay.modules import Gemma3, GRPOConfig, LoRA, Questioner, Reasoner, Tuning, VisPlay
from visplay.prompts import Template
from visplay.types import Sampling

TEMPLATE = Template(user="{question}", system="Be good.")
ASK = Template(user="Ask.")
IMAGES = [Image.effect_noise(size, 90).convert("RGB") for size in [(56, 56), (80, 40), (30, 90)]]
LENGTHS = torch.tensor([[4, 2], [1, 5], [3, 3]])
MASK = torch.arange(5) < LENGTHS[..., None]
IDS = torch.randint(0, 400, MASK.shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request, tmp_path_factory):
    """A family, and the directory of its tiny model."""
    directory = tmp_path_factory.mktemp("tiny")
    FAMILIES[request.param].write(directory)
    return FAMILIES[request.param].family, str(directory)


def make_module(tiny, freeze=(), lora=LoRA(rank=2, alpha=4), **settings):  # noqa: B008 (frozen)
    """Both roles, with two adapters on one base or, without, with two whole models; weights are loaded."""
    family, directory = tiny
    vlm = family(directory, tuning=Tuning(freeze, lora), **settings)
    config = GRPOConfig(learning_rate=1e-2, weight_decay=0.0)
    module = VisPlay(vlm, Questioner(config, ASK), Reasoner(config, TEMPLATE))
    module._trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"))
    module.configure_model()
    return module.train()


def ask(policy):
    chosen = [IMAGES[:2], [], IMAGES[2:]]
    return [policy.encode(f"{i}", TEMPLATE, images, question="How many?") for i, images in enumerate(chosen)]


def scored(policy):
    """Log-probabilities of made-up answers, one after another."""
    return policy.logps(ask(policy), IDS, MASK)[0][MASK]


def learn(role, steps=2):
    """Have answers become likelier."""
    optimizer = role.make_optimizer()
    for _ in range(steps):
        (-scored(role.vlm).mean()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def gradients(policy):
    """Of every weight that has one, and then of none."""
    found = {name: weight.grad for name, weight in policy.model.named_parameters() if weight.grad is not None}
    policy.model.zero_grad(set_to_none=True)
    return found


def weights(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if ".lora_" not in name}


def test_each_role_learns_its_adapter_and_the_base_is_bit_identical(tiny):
    module = make_module(tiny)
    reasoner, questioner = module.reasoner.vlm, module.questioner.vlm
    before, first = weights(reasoner.model), scored(reasoner).detach()
    learn(module.reasoner)
    after = scored(reasoner).detach()
    assert after.mean() > first.mean() + 0.01
    assert scored(questioner).equal(first)
    learn(module.questioner, steps=1)
    assert scored(reasoner).equal(after)
    assert not scored(questioner).equal(first)
    assert scored(reasoner.base()).equal(first)
    assert all(weight.equal(before[name]) for name, weight in weights(reasoner.model).items())
    plain = tiny[0](tiny[1])
    plain.load()
    assert reasoner.base().fingerprint() == plain.fingerprint()
    assert dict(reasoner.base().weights()).keys() == dict(plain.weights()).keys()

    state = module.state_dict()
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in state)
    again = make_module(tiny)
    again.load_state_dict(state)
    assert scored(again.reasoner.vlm).equal(after)
    assert scored(again.questioner.vlm).equal(scored(questioner))


@pytest.mark.parametrize("freeze", [("vision_tower", "projector"), ("language_model",)], ids=len)
def test_gradients_reach_all_of_an_adapter_and_nothing_else(tiny, freeze, monkeypatch):
    """Also where the inputs of what learns are frozen, layers are computed again, and rows are padded."""
    found, packed = [], tiny[0] is not Gemma3
    for checkpointing in (False, True) if packed else (False,):
        module = make_module(tiny, freeze, gradient_checkpointing=checkpointing)
        learn(module.reasoner, steps=1)  # else the first products have no gradient
        policy, runs = module.reasoner.vlm, []
        layer = policy.text_model.layers[0].mlp
        layer.register_forward_pre_hook(lambda *_, runs=runs: runs.append(1))
        scored(policy).sum().backward()
        assert len(runs) == 1 + checkpointing or not packed
        found.append(gradients(policy))
        assert {id(weight) for weight in policy.trained_weights()} == {
            id(weight) for name, weight in policy.model.named_parameters() if name in found[-1]
        }
        assert all(gradient.norm() > 0 for gradient in found[-1].values())
    monkeypatch.setattr(tiny[0], "packs", False)
    module = make_module(tiny, freeze)
    learn(module.reasoner, steps=1)
    scored(module.reasoner.vlm).sum().backward()
    for name, gradient in gradients(module.reasoner.vlm).items():
        for other in found:
            assert (gradient - other[name]).norm() <= 1e-3 * gradient.norm() + 1e-6, name


def test_samples_are_of_the_adapter_that_is_asked(tiny):
    module, rollout = make_module(tiny), TransformersRollout()
    learn(module.reasoner)
    learn(module.questioner, steps=1)
    for role, other in ((module.questioner, module.reasoner), (module.reasoner, module.questioner)) * 2:
        policy = role.vlm
        group = rollout.generate(policy, ask(policy)[:1], Sampling(n=2, max_new_tokens=6))[0]
        assert rollout.loaded == (role.name, policy.version)
        for completion in group:
            ids = torch.tensor(completion.token_ids)[None, None]
            own, others = (
                each.logps(ask(policy)[:1], ids, torch.ones_like(ids, dtype=torch.bool))[0][0, 0]
                for each in (policy, other.vlm)
            )
            torch.testing.assert_close(own, torch.tensor(completion.logps), rtol=0, atol=1e-5)
            assert (own - others).abs().max() > 1e-3


def test_policies_within_one_autocast_region_keep_their_own_weights(tiny):
    """Even where autocast keeps the weights that it has cast."""
    module = make_module(tiny)
    learn(module.reasoner)
    learn(module.questioner, steps=1)
    policies = [module.reasoner.vlm, module.questioner.vlm, module.reasoner.vlm.base()]

    def alone(policy):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return scored(policy)

    expected = [alone(policy) for policy in policies]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=True):
        together = [scored(policy) for policy in policies * 2]
    assert all(found.equal(right) for found, right in zip(together, expected * 2, strict=True))
    assert (expected[0] - expected[1]).abs().max() > 0.01
