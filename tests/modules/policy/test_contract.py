"""Attention that is not plainly causal: what is declared of it, and that padded rows honour it."""

import pytest
import torch
import transformers as hf
from PIL import Image

from examples.add_a_vlm import Llava
from families import Tiny, gemma3, llava, plain_logps, processed
from visplay.modules import Gemma3
from visplay.modules.policy.contract import AttentionContract, read_contract
from visplay.modules.policy.hidden_states import padded_hidden_states
from visplay.modules.policy.prefill import find_shared_prefixes
from visplay.prompts import Template

TEMPLATE = Template(user="{question}", system="Be good.")
NOISE = Image.effect_noise((56, 40), 90).convert("RGB")
MISTRAL = {"model_type": "mistral", "sliding_window": 12}
QUESTIONS = ("Where?", "Is it red, or is it blue?", "What is it?")


def load(directory, write, family):
    write(directory)
    vlm = family(str(directory))
    vlm.load()
    return vlm


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (hf.LlamaConfig(), AttentionContract()),
        (hf.MistralConfig(sliding_window=None), AttentionContract()),
        (hf.MistralConfig(sliding_window=99), AttentionContract(window=99)),
        (hf.Qwen2Config(sliding_window=99), AttentionContract()),
        (hf.Qwen2Config(sliding_window=99, use_sliding_window=True, max_window_layers=1), AttentionContract(window=99)),
        (hf.Gemma3TextConfig(sliding_window=99), AttentionContract(window=99)),
        (hf.Llama4TextConfig(), AttentionContract(other_layers=("chunked_attention",))),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_configurations_say(config, expected):
    assert read_contract(None, config) == expected


def test_a_window_longer_than_the_context_is_none():
    contract = AttentionContract(window=1024)
    assert contract.why_not_causal(1024) is None
    assert contract.why_not_causal(1025) == "layers attend within windows of 1024 tokens"


def batch_of(vlm, images):
    prompts = [vlm.encode(q, TEMPLATE, [NOISE] * images, question=q) for q in QUESTIONS]
    token_ids = torch.randint(0, 400, (len(prompts), 2, 30), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(30) < torch.tensor([[30, 4], [9, 1], [17, 25]])[..., None]
    return prompts, token_ids, mask


@pytest.mark.parametrize("images", [0, 1, 2])
def test_windows_without_layer_types(tmp_path, images):
    vlm = load(tmp_path, lambda directory: llava(directory, **MISTRAL), Llava)
    assert vlm.why_not_packed() == "layers attend within windows of 12 tokens"
    prompts, token_ids, mask = batch_of(vlm, images)
    assert find_shared_prefixes(vlm, prompts) is None
    with torch.no_grad():
        logps, _ = vlm.logps(prompts, token_ids, mask)
        for n, prompt in enumerate(prompts):
            inputs = processed(vlm, Tiny(Llava, llava), prompt.token_ids, prompt.images)
            for g in range(2):
                plain = plain_logps(vlm, inputs, token_ids[n, g][mask[n, g]])
                torch.testing.assert_close(logps[n, g][mask[n, g]], plain, rtol=0, atol=1e-5)


def test_windows_as_long_as_the_context_are_packed(tmp_path):
    vlm = load(tmp_path, lambda directory: llava(directory, **MISTRAL | {"sliding_window": 1024}), Llava)
    assert vlm.why_not_packed() is None


def test_a_batch_whose_images_attend_both_ways_is_what_its_prompts_are_alone(tmp_path):
    vlm = load(tmp_path, gemma3, Gemma3)
    prompts, token_ids, mask = batch_of(vlm, 1)
    with torch.no_grad():
        together = padded_hidden_states(vlm, prompts, token_ids, mask)
        alone = [padded_hidden_states(vlm, prompts[i : i + 1], token_ids[i : i + 1], mask[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_images_both_ways_need_a_model_that_can_be_told(tmp_path, monkeypatch):
    vlm = load(tmp_path, llava, Llava)
    monkeypatch.setattr(Llava, "attention", AttentionContract(images_both_ways=True))
    assert vlm.why_not_packed() == "the tokens of an image attend both ways"
    message = (
        "attention: images_both_ways is declared, and LlavaForConditionalGeneration takes neither token_type_ids nor"
    )
    with pytest.raises(ValueError, match=message):
        vlm.prefill(batch_of(vlm, 1)[0])
