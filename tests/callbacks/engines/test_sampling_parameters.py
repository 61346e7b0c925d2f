"""How vLLM is told to draw; it is not loaded here."""

from types import SimpleNamespace

import torch

from visplay.callbacks.engines.vllm_engine import sampling_parameters
from visplay.types import Prompt, Sampling

POLICY = SimpleNamespace(banned_token_ids=torch.tensor([7]), stop_token_ids=(1,))
PROMPTS = [Prompt("a", (1,), ()), Prompt("b", (1,), ())]


def test_samples_from_a_number_on_have_the_seeds_that_all_samples_have_there():
    """vLLM adds a sample's number to its prompt's seed."""
    a, b = sampling_parameters(POLICY, PROMPTS, Sampling(4, 8, seed=3))
    later, _ = sampling_parameters(POLICY, PROMPTS, Sampling(2, 8, seed=3, first=2))
    assert (a["n"], later["n"]) == (4, 2)
    assert later["seed"] == a["seed"] + 2 < 2**63
    assert a["seed"] != b["seed"]
