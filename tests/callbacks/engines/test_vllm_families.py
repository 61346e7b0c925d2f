"""Real vLLM with a tiny model of every family, started from its export: names of weights, tokens of images, numbers."""

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from callbacks.engines.test_vllm import gap, perturb
from families import FAMILIES
from visplay.callbacks import EngineSettings, VLLMRollout
from visplay.callbacks.engines.vllm_engine import VLLMEngine
from visplay.modules import LoRA, Tuning
from visplay.modules.policy.weights.saving import ExportFormat, write_policy
from visplay.prompts import Template
from visplay.types import Sampling

SETTINGS = EngineSettings(cache_gib=0.125, max_sequences=16, max_batched_tokens=1000, images_per_prompt=2)
TEMPLATE = Template(user="{question}", system="Be good.")
IMAGES = [Image.effect_noise(size, 90).convert("RGB") for size in [(56, 56), (80, 40), (30, 90)]]
CHOSEN = [IMAGES[:1], IMAGES[1:2], IMAGES[2:], IMAGES[:2], []]
ANSWERS = torch.randint(0, 400, (len(CHOSEN), 1, 7), generator=torch.Generator().manual_seed(0))


def make_policy(name, directory, lora):
    """A policy that has learned something in all parts; images are limited."""
    most = 14 * 14 * 9 if name.startswith("Qwen") else 56 * 56 + 900
    policy = FAMILIES[name].family(str(directory), tuning=Tuning((), lora), max_pixels=most)
    policy.load()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in policy.trained_weights():
            weight.add_(0.03 * torch.randn(weight.shape, generator=generator))
    return policy


def forced(engine, prompts):
    """Log-probabilities (N, 1, T) that vLLM gives to the tokens of answers, read as a part of the prompt."""
    ids = [[*prompt.token_ids, *row.tolist()] for prompt, row in zip(prompts, ANSWERS[:, 0], strict=True)]
    requests = [
        {"prompt_token_ids": row} | ({"multi_modal_data": {"image": list(prompt.images)}} if prompt.images else {})
        for row, prompt in zip(ids, prompts, strict=True)
    ]
    outputs = engine.generate(requests, [{"prompt_logprobs": 0, "max_tokens": 1}] * len(requests))
    rows = [
        [place[token].logprob for place, token in zip(output.prompt_logprobs[-len(row) :], row.tolist(), strict=True)]
        for output, row in zip(outputs, ANSWERS[:, 0], strict=True)
    ]
    return torch.tensor(rows)[:, None]


@torch.no_grad()
def scored(policy, prompts):
    """The same of the trainer; no token is left out, as vLLM leaves none out of what it reads."""
    banned, policy.banned_token_ids = policy.banned_token_ids, policy.banned_token_ids[:0]
    try:
        return policy.logps(prompts, ANSWERS, torch.ones_like(ANSWERS, dtype=torch.bool))[0]
    finally:
        policy.banned_token_ids = banned


def assert_switched(rollout, reasoner, prompts):
    """Samples are of whichever of two adapters is asked; what the engine holds is compared at every load."""
    questioner = reasoner.unloaded()
    reasoner.name, questioner.name = "reasoner", "questioner"
    questioner.load(shares_with=reasoner)
    for policy, other in ((reasoner, questioner), (questioner, reasoner)) * 2:
        groups = rollout.generate(policy, prompts, Sampling(n=2, max_new_tokens=7, seed=3))
        assert gap(policy, prompts, groups) < 1e-4
        assert gap(other, prompts, groups) > 0.02
    assert questioner.model is reasoner.model


def assert_samples_follow_the_weights(rollout, policy, prompts):
    """Names and checksums of all weights are compared by the engine at every load; control tokens are never sampled."""
    for seed in range(2):
        groups = rollout.generate(policy, prompts, Sampling(n=3, max_new_tokens=8, seed=seed))
        assert gap(policy, prompts, groups) < 1e-4
        sampled = {token for group in groups for completion in group for token in completion.token_ids}
        assert not sampled & set(policy.banned_token_ids.tolist())
        perturb(policy)


@pytest.mark.parametrize(
    "name", [name for name in FAMILIES if name != "Gemma 3"]
)  # whose images vLLM makes causal here
def test_exports_score_and_samples_are_scored_as_in_training(name, tmp_path):
    """The engine starts from merged adapters, then reads the file of whole weights, then what it is sent."""
    FAMILIES[name].write(tmp_path)
    adapter, whole = (make_policy(name, tmp_path, lora) for lora in (LoRA(rank=3, alpha=6), None))
    for policy, kind in ((adapter, "adapter"), (whole, "whole")):
        write_policy(policy, tmp_path / kind, ExportFormat("float32"))
    prompts = [whole.encode(f"{i}", TEMPLATE, images, question="How many?") for i, images in enumerate(CHOSEN)]
    exported = FAMILIES[name].family(str(tmp_path / "adapter"))
    exported.load()
    rollout = VLLMRollout(SETTINGS)
    rollout._running = engine = VLLMEngine(exported, SETTINGS, torch.device("cpu"), torch.float32, timeout_seconds=300)
    try:
        found = [forced(engine, prompts)]
        engine.load(load_file(tmp_path / "whole" / "model.safetensors").items())
        found.append(forced(engine, prompts))
        for policy, logps in zip((adapter, whole), found, strict=True):
            torch.testing.assert_close(logps, scored(policy, prompts), rtol=0, atol=1e-4)
            assert (logps - scored(policy.base(), prompts)).abs().amax(-1).min() > 0.02
        assert_switched(rollout, adapter, prompts)
        whole.name = "whole"
        assert_samples_follow_the_weights(rollout, whole, prompts)
    finally:
        rollout.close()
