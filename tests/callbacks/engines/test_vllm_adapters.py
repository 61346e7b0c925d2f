"""Real vLLM: it samples from whichever of two adapters on one base is asked."""

import pytest
import torch

from callbacks.engines.test_vllm import SAMPLING, SETTINGS, asked, gap
from visplay.callbacks import VLLMRollout, WrongWeightsError
from visplay.modules import LoRA, Qwen2_5_VL, Tuning
from visplay.tiny import BASE


def make_policy(name, seed, shares_with=None):
    policy = Qwen2_5_VL(str(BASE), tuning=Tuning((), LoRA(rank=4, alpha=8)))
    policy.name = name
    policy.load(shares_with)
    _move(policy, seed)
    return policy.eval()


@torch.no_grad()
def _move(policy, seed):
    generator = torch.Generator().manual_seed(seed)
    for weight in policy.trained_weights():
        weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    policy.version += 1


def test_it_samples_from_whichever_adapter_is_asked(monkeypatch):
    reasoner = make_policy("reasoner", 0)
    questioner = make_policy("questioner", 1, shares_with=reasoner)
    prompts = asked(reasoner, questions=3)
    rollout = VLLMRollout(SETTINGS)
    for seed in (2, 3):
        for policy, other in ((reasoner, questioner), (questioner, reasoner)):
            _move(policy, seed)
            groups = rollout.generate(policy, prompts, SAMPLING)  # its checksums are compared
            assert gap(policy, prompts, groups) < 1e-4
            assert gap(other, prompts, groups) > 0.1
    monkeypatch.setattr(Qwen2_5_VL, "weights", _without_the_adapter(Qwen2_5_VL.weights))
    reasoner.version += 1
    with pytest.raises(WrongWeightsError, match="holds other weights than 'reasoner'"):
        rollout.generate(reasoner, prompts, SAMPLING)
    monkeypatch.undo()
    rollout.close()


def _without_the_adapter(weights):
    """Sends the base at first; what is compared then has the adapter."""
    calls = []

    def changed(policy, device=None):
        calls.append(policy)
        return weights(policy.base() if len(calls) == 1 else policy, device)

    return changed
