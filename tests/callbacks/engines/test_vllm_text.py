"""Real vLLM with language models without images, started from their exports: names of weights, tokens, numbers."""

import pytest

from callbacks.engines.test_vllm_families import assert_samples_follow_the_weights
from text_models import TEXT_MODELS
from visplay.callbacks import EngineSettings, VLLMRollout
from visplay.modules import CausalLM, LoRA, Tuning
from visplay.prompts import Template

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
            assert_samples_follow_the_weights(rollout, policy, prompts)
    finally:
        rollout.close()
