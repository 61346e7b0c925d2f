"""Language models without images against plain transformers, on tiny ones with random weights."""

import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoTokenizer

from text_models import TEXT_MODELS, llama
from visplay.callbacks import TransformersRollout
from visplay.checking import FamilyCheck
from visplay.modules import CausalLM, LoRA, Tuning
from visplay.modules.policy.weights.model_source import ModelSource
from visplay.modules.policy.weights.saving import ExportFormat
from visplay.prompts import Template
from visplay.types import Sampling

TEMPLATE = Template(user="{question}", system="Be good.")


@pytest.fixture(scope="module", params=TEXT_MODELS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def directory(name, tmp_path_factory):
    directory = tmp_path_factory.mktemp("tiny")
    TEXT_MODELS[name](directory)
    return directory


@pytest.fixture(scope="module")
def vlm(directory):
    vlm = CausalLM(str(directory))
    vlm.load()
    return vlm


def asked(vlm):
    questions = ["Is 7 odd?", "What is 3 + 4 + 5, and what is twice that?", "Why?"]
    return [vlm.encode(f"{n}", TEMPLATE, None, question=question) for n, question in enumerate(questions)]


def answers(vlm):
    lengths = torch.tensor([[7, 1, 3], [2, 12, 5], [4, 4, 1]])
    token_ids = torch.randint(0, 440, (3, 3, 12), generator=torch.Generator().manual_seed(0))
    assert not torch.isin(token_ids, vlm.banned_token_ids).any()
    return token_ids, torch.arange(12) < lengths[..., None]


def plain_logps(model, vlm, prompt, token_ids):
    """One completion (T,) as one row through transformers' own forward; banned tokens excluded."""
    row = torch.tensor([[*prompt.token_ids, *token_ids.tolist()]])
    logits = model(input_ids=row, use_cache=False).logits[0, -len(token_ids) - 1 : -1]
    logits = logits.index_fill(-1, vlm.banned_token_ids, -1e30)
    return logits.log_softmax(-1).gather(-1, token_ids[:, None]).squeeze(-1)


def gradients(vlm, loss):
    vlm.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in vlm.named_parameters()}


def test_a_prompt_is_the_tokenizers_own(vlm):
    prompt = vlm.encode("q", TEMPLATE, None, question="Is 7 odd?")
    messages = [{"role": "system", "content": "Be good."}, {"role": "user", "content": "Is 7 odd?"}]
    text = vlm.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt.token_ids == tuple(vlm.tokenizer.encode(text, add_special_tokens=False))
    assert vlm.prompt_tokens(prompt) == len(prompt.token_ids)


def test_rows_equal_plain_transformers(vlm, name):
    """Log-probabilities and every gradient; packed, but where there are windows."""
    assert vlm.why_not_packed() == ("layers attend within windows of 24 tokens" if name == "Gemma 3" else None)
    prompts, (token_ids, mask) = asked(vlm), answers(vlm)
    weights = torch.rand(mask.shape, generator=torch.Generator().manual_seed(1)) - 0.3
    logps, _ = vlm.logps(prompts, token_ids, mask)
    ours, total = gradients(vlm, (logps * weights).sum()), torch.zeros(())
    for n, prompt in enumerate(prompts):
        for g in range(mask.shape[1]):
            inside = mask[n, g]
            plain = plain_logps(vlm.model, vlm, prompt, token_ids[n, g][inside])
            torch.testing.assert_close(logps[n, g][inside], plain, rtol=0, atol=1e-5)
            total = total + (plain * weights[n, g][inside]).sum()
    for name, gradient in gradients(vlm, total).items():
        assert (gradient - ours[name]).norm() <= 1e-4 * gradient.norm() + 1e-6, name


def test_samples_carry_the_log_probabilities_of_training(vlm):
    prompts = asked(vlm)
    groups = TransformersRollout().generate(vlm, prompts, Sampling(n=2, max_new_tokens=9, seed=1))
    for prompt, group in zip(prompts, groups, strict=True):
        for completion in group:
            ids = torch.tensor(completion.token_ids)
            with torch.no_grad():
                logps, _ = vlm.logps([prompt], ids[None, None], torch.ones(1, 1, len(ids), dtype=torch.bool))
            torch.testing.assert_close(logps[0, 0], torch.tensor(completion.logps), rtol=0, atol=1e-4)
            assert not set(completion.token_ids) & set(vlm.banned_token_ids.tolist())


def test_the_check_finds_nothing(vlm):
    lines = list(FamilyCheck(vlm).run())
    assert [line.partition(":")[0] for line in lines] == [
        "ids", "log-probabilities", "batches", "samples", "names", "saving",
    ]  # fmt: skip


@pytest.mark.parametrize("lora", [None, LoRA(rank=3, alpha=6)], ids=["whole", "adapter"])
def test_exports_are_loaded_by_transformers(directory, lora, tmp_path):
    policy = CausalLM(str(directory), tuning=Tuning(("vision_tower", "projector"), lora))  # as configs/lora.yaml has it
    policy.load()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in policy.trained_weights():
            weight.add_(0.03 * torch.randn(weight.shape, generator=generator))
    policy.save(tmp_path / "merged", ExportFormat("float32"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.chat_template == policy.tokenizer.chat_template
    loaded = [ModelSource(str(tmp_path / "merged")).load(CausalLM(str(directory)))]
    if lora is not None:
        policy.save(tmp_path / "adapter", ExportFormat("float32", adapter_only=True))
        loaded.append(ModelSource(str(tmp_path / "adapter")).load(CausalLM(str(directory))))
    prompt, token_ids = asked(policy)[1], torch.tensor([5, 9, 33, 2])
    mask = torch.ones(1, 1, 4, dtype=torch.bool)
    with torch.no_grad():
        expected = policy.logps([prompt], token_ids[None, None], mask)[0][0, 0]
        found = [plain_logps(model, policy, prompt, token_ids)]
        found += [each.logps([prompt], token_ids[None, None], mask)[0][0, 0] for each in loaded]
        base = policy.base().logps([prompt], token_ids[None, None], mask)[0][0, 0]
    for each in found:
        torch.testing.assert_close(each, expected, rtol=0, atol=1e-5)
    assert (base - expected).abs().max() > 0.01


def test_images_and_their_limits_are_rejected(vlm, directory):
    image = Image.new("RGB", (8, 8))
    for images in (image, [image]):
        with pytest.raises(ValueError, match=r"prompt 'q': .* is a language model and takes no images; give a VLM"):
            vlm.encode("q", TEMPLATE, images, question="What?")
    with pytest.raises(ValueError, match=r"min_pixels=None, max_pixels=64: .* takes no images; give null"):
        CausalLM(str(directory), max_pixels=64).load()


def test_logits_that_are_no_plain_product_are_rejected(tmp_path):
    llama(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"hidden_act"', '"final_logit_softcapping": 30.0,\n  "hidden_act"'))
    with pytest.raises(ValueError, match=r"more than the head's product: final_logit_softcapping=30\.0"):
        CausalLM(str(tmp_path)).load()


def test_a_tokenizer_without_a_chat_template(tmp_path):
    llama(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="has no chat template"):
        CausalLM(str(tmp_path)).load()
