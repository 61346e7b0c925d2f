"""``python -m examples.pretrained.likelihoods --model DIR``: log-probabilities by three forward passes of one model.

Completions of the model itself, sampled with temperature 1 in groups, are scored by the packed rows that learn, by
transformers' own forward pass, one completion a row, and, with ``--vllm``, by the vLLM engine that samples them.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from examples.pretrained import prepare
from examples.pretrained.arithmetic import pose_many
from examples.pretrained.warm_up import CONFIGS
from visplay.callbacks import EngineSettings, TransformersRollout, VLLMRollout
from visplay.commands.export import read_role
from visplay.commands.settings.configuration import read_config
from visplay.modules import VLM, CausalLM
from visplay.modules.learner.group_batch import GroupBatch
from visplay.types import Completion, Prompt, Rollout, Sampling

logger = logging.getLogger(__name__)

_GROUP = 4
_TOKENS = 32
_SETTINGS = EngineSettings(cache_gib=0.5, max_sequences=32, max_batched_tokens=2048)


class Gaps(NamedTuple):
    """Largest absolute differences of a token's log-probability, in nats.

    Args:
        completions: Number that were compared.
        tokens: Their tokens.
        packed: Packed rows against transformers' forward pass.
        engine: What the engine says of what it samples against transformers' forward pass.
    """

    completions: int
    tokens: int
    packed: float
    engine: float


@torch.no_grad()
def compare(policy: VLM, prompts: Sequence[Prompt], groups: Sequence[Sequence[Completion]]) -> Gaps:
    """Score sampled completions by packed rows and by plain transformers.

    Args:
        policy: The model, loaded from ``policy.path``.
        prompts: What it was asked.
        groups: What an engine sampled, as many completions for each prompt.
    """
    plain = AutoModelForCausalLM.from_pretrained(policy.path, dtype=torch.float32, attn_implementation="eager").eval()
    rollout = Rollout(tuple(prompts), tuple(tuple(group) for group in groups))
    batch = GroupBatch.collate(rollout, [len(prompt.token_ids) for prompt in prompts])
    packed, engine = 0.0, 0.0
    for n, prompt in enumerate(prompts):
        one = batch.take(slice(n, n + 1))
        scores, _ = policy.logps([prompt], one.token_ids, one.mask)
        expected = torch.cat([_plain_logps(plain, policy, prompt, torch.tensor(each.token_ids)) for each in groups[n]])
        packed = max(packed, float((scores[one.mask] - expected).abs().max()))
        engine = max(engine, float((one.sampled_logps[one.mask] - expected).abs().max()))
    return Gaps(sum(map(len, groups)), int(batch.mask.sum()), packed, engine)


def _plain_logps(model: torch.nn.Module, policy: VLM, prompt: Prompt, token_ids: Tensor) -> Tensor:
    """One completion as one row; tokens that are never sampled excluded."""
    row = torch.tensor([[*prompt.token_ids, *token_ids.tolist()]])
    logits = model(input_ids=row, use_cache=False).logits[0, -len(token_ids) - 1 : -1]
    logits = logits.index_fill(-1, policy.banned_token_ids, torch.finfo(logits.dtype).min)
    return logits.log_softmax(-1).gather(-1, token_ids[:, None]).squeeze(-1)


def measure(model: str, completions: int, vllm: bool) -> Gaps:
    """Sample completions of a model to arithmetic questions, and compare their scores.

    Args:
        model: A Hugging Face directory.
        completions: How many; rounded up to whole groups.
        vllm: Whether vLLM samples, or transformers.
    """
    role = read_role(read_config(CONFIGS), "reasoner")
    policy = CausalLM(model)
    policy.load()
    policy.eval()
    questions = pose_many(-(-completions // _GROUP), np.random.default_rng(0))
    prompts = [policy.encode(str(n), role.template, None, question=each) for n, each in enumerate(questions)]
    engine = VLLMRollout(_SETTINGS) if vllm else TransformersRollout()
    try:
        groups = engine.generate(policy, prompts, Sampling(_GROUP, _TOKENS, seed=0))
    finally:
        if isinstance(engine, VLLMRollout):
            engine.close()
    return compare(policy, prompts, groups)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m examples.pretrained.likelihoods", description=__doc__)
    parser.add_argument("--model", default=str(prepare.OUT), help="the directory (default: %(default)s)")
    parser.add_argument("--completions", type=int, default=200, help="(default: %(default)s)")
    parser.add_argument("--vllm", action="store_true", help="vLLM samples them (default: transformers)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    gaps = measure(arguments.model, arguments.completions, arguments.vllm)
    logger.info(
        "%d completions, %d tokens; largest difference to transformers: packed rows %.1e, engine %.1e",
        *gaps,
    )


if __name__ == "__main__":
    main()
