"""A model that somebody else trained, where ``make pretrained`` has put it: SmolLM2-135M-Instruct."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.pretrained.likelihoods import measure
from examples.pretrained.prepare import OUT
from visplay.callbacks import TransformersRollout
from visplay.modules import CausalLM, LoRA, Tuning
from visplay.modules.policy.weights.saving import ExportFormat
from visplay.prompts import Template
from visplay.types import Sampling

MODEL = Path(__file__).parents[2] / OUT

pytestmark = pytest.mark.skipif(not MODEL.is_dir(), reason="needs the pretrained model: make pretrained")


def test_it_answers():
    policy = CausalLM(str(MODEL))
    policy.load()
    prompt = policy.encode("q", Template(user="{question}"), None, question="What is the capital of France?")
    ((completion,),) = TransformersRollout().generate(policy.eval(), [prompt], Sampling(1, 12, temperature=0.0))
    assert "Paris" in completion.text


def test_packed_rows_score_as_transformers():
    gaps = measure(str(MODEL), completions=20, vllm=False)
    assert gaps.completions == 20
    assert gaps.tokens > 200
    assert max(gaps.packed, gaps.engine) < 1e-4


def test_vllm_scores_what_it_samples_as_transformers():
    gaps = measure(str(MODEL), completions=20, vllm=True)
    assert gaps.completions == 20
    assert gaps.tokens > 200
    assert max(gaps.packed, gaps.engine) < 1e-4


def test_a_merged_adapter_is_what_transformers_loads(tmp_path):
    policy = CausalLM(str(MODEL), tuning=Tuning((), LoRA(rank=4, alpha=8)))
    policy.load()
    with torch.no_grad():
        for number, weight in enumerate(policy.parameters()):
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)) * 0.01)
    policy.save(tmp_path / "merged", ExportFormat("float32"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    ids = tokenizer("Seven is an odd number.", return_tensors="pt").input_ids
    merged, base = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (tmp_path / "merged", MODEL)
    )
    with torch.no_grad():
        found, expected, before = merged(ids).logits, policy.eval().model(ids).logits, base(ids).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert (found - before).abs().max() > 0.1
