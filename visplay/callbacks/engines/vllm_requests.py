"""What vLLM is asked, the same in this process and of a server."""

from __future__ import annotations

from typing import Any

from visplay.callbacks.engines.engine import RolloutError
from visplay.modules.policy.vlm import VLM
from visplay.types import Prompt, Sampling, derive_seed

NEVER = -1e9  # added to the logits of tokens that must not be sampled
FINISHED = {"stop": True, "length": False}


def sampling_parameters(policy: VLM, sampling: Sampling) -> dict[str, Any]:
    """How vLLM draws, but for the seed; greedy completions are all one, so one is asked for."""
    return {
        "n": sampling.n if sampling.temperature else 1,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "max_tokens": sampling.max_new_tokens,
        "logprobs": 0,  # of the sampled token alone
        "logit_bias": dict.fromkeys(policy.banned_token_ids.tolist(), NEVER),
        "stop_token_ids": list(policy.stop_token_ids),
        "ignore_eos": True,  # they are among the stop tokens
        "detokenize": False,
    }


def check_length(policy: VLM, prompt: Prompt, tokens: int, advice: str) -> None:
    """See that vLLM reads a prompt as the policy does, images expanded.

    Raises:
        RolloutError: It does not; ``advice`` ends the message.
    """
    if tokens != policy.prompt_tokens(prompt):
        raise RolloutError(
            f"prompt {prompt.key!r}: vLLM reads {tokens} tokens and the policy {policy.prompt_tokens(prompt)}; the two "
            f"cut its images differently, {advice}"
        )


def prompt_seed(prompt: Prompt, sampling: Sampling) -> int:
    """Seed of a prompt's first sample; vLLM gives sample i this seed plus i."""
    return derive_seed(sampling.seed, prompt.key) >> 1
