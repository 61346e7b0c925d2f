"""Real vLLM with language models without images, started from their exports: names of weights, tokens, numbers."""

import pytest

from callbacks.engines.test_vllm import gap, perturb
from text_models import TEXT_MODELS
from visplay.callbacks import EngineSettings, VLLMRollout
from visplay.modules import CausalLM, LoRA, Tuning
from visplay.prompts import Template
from visplay.types import Sampling

SETTINGS = EngineSettings(cache_gib=0.125, max_sequences=16, max_batched_tokens=1000)
TEMPLATE = Template(user="{question}", system="Be good.")


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_samples_are_scored_as_in_training_and_follow_the_weights(name, tmp_path):
    """Checksums of all weights are compared by the engine at every load."""
    TEXT_MODELS[name](tmp_path)
    whole, adapter = (CausalLM(str(tmp_path), tuning=Tuning((), lora)) for lora in (None, LoRA(rank=3, alpha=6)))
    rollout = VLLMRollout(SETTINGS)
    try:
        for policy in (whole, adapter):
            policy.name = "whole" if policy is whole else "adapter"
            policy.load()
            policy.eval()
            prompts = [policy.encode(f"{n}", TEMPLATE, None, question="How many? " * n) for n in (1, 4)]
            for seed in range(2):
                groups = rollout.generate(policy, prompts, Sampling(n=3, max_new_tokens=8, seed=seed))
                assert gap(policy, prompts, groups) < 1e-4
                sampled = {token for group in groups for each in group for token in each.token_ids}
                assert not sampled & set(policy.banned_token_ids.tolist())
                perturb(policy)
    finally:
        rollout.close()
