"""Exports of every family: plain transformers, peft and this package load from them what the trainer scores with."""

import json
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForImageTextToText, AutoProcessor

from families import FAMILIES, plain_logps, processed
from visplay.callbacks import TransformersRollout
from visplay.modules import LoRA, Tuning
from visplay.modules.policy.weights.model_source import ModelSource
from visplay.modules.policy.weights.saving import ExportFormat, export_bytes, write_policy
from visplay.prompts import Template
from visplay.types import Sampling

FLOAT32, ADAPTER = ExportFormat("float32"), ExportFormat("float32", adapter_only=True)
AREAS = {"SmolVLM": 56 * 56 + 900, "LlavaOnevision": 28 * 84, "InternVL": 28 * 28 * 2, "Gemma3": None}
"""Limits of images that choose some of what a family offers; of the others, nine tokens."""
TEMPLATE = Template(user="{question}", system="Be good.")
IMAGES = [Image.effect_noise(size, 90).convert("RGB") for size in [(56, 56), (120, 60), (30, 90), (84, 84)]]
CHOSEN = [IMAGES[:1], IMAGES[1:], [], IMAGES[3:]]


def tie(directory):
    """Have a checkpoint use its embeddings as its head, as the small released ones do."""
    config = json.loads((directory / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True
    (directory / "config.json").write_text(json.dumps(config))
    weights = load_file(directory / "model.safetensors")
    weights.pop("lm_head.weight", None)
    save_file(weights, directory / "model.safetensors", {"format": "pt"})


TIED = ("Qwen3-VL", "SmolVLM2", "LLaVA-OneVision", "InternVL")


@pytest.fixture(scope="module", params=["Qwen2.5-VL", "Qwen3-VL", "Idefics3", *(f"{name}, tied" for name in TIED)])
def case(request, tmp_path_factory):
    """A family, and the directory of its tiny model; that of Qwen2.5-VL is tied by itself."""
    name, _, tied = request.param.partition(", ")
    tiny, directory = FAMILIES[name], tmp_path_factory.mktemp("tiny")
    tiny.write(directory)
    if tied:
        tie(directory)
    return tiny, directory


def make_policy(case, lora, seed=0):
    tiny, directory = case
    tuning = Tuning((), LoRA(rank=3, alpha=6) if lora else None)
    policy = tiny.family(str(directory), tuning=tuning, max_pixels=AREAS.get(tiny.family.__name__, 14 * 14 * 9))
    policy.load()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in policy.trained_weights():
            weight.add_(torch.randn(weight.shape, generator=generator) * (0.05 if lora else 0.03))
    return policy


@pytest.fixture(params=[False, True], ids=["whole", "adapter"])
def policy(request, case):
    return make_policy(case, request.param)


def ask(policy):
    return [
        policy.encode(str(i), TEMPLATE, images, question="How many red circles are there?")
        for i, images in enumerate(CHOSEN)
    ]


def answer(policy):
    """Ids (T,) of two answers to each prompt, as the policy gives them."""
    groups = TransformersRollout().generate(policy, ask(policy), Sampling(n=2, max_new_tokens=6, seed=3))
    return [[torch.tensor(completion.token_ids) for completion in group] for group in groups]


@torch.no_grad()
def scored(policy, answers):
    """Log-probabilities of answers, one after another, under a policy."""
    flat = pad_sequence([ids for group in answers for ids in group], batch_first=True, padding_value=-1)
    ids = flat.view(len(answers), -1, flat.shape[-1])
    mask = ids >= 0
    return policy.logps(ask(policy), ids.clamp(min=0), mask)[0][mask]


@torch.no_grad()
def scored_plainly(model, processor, policy, tiny, answers):
    """The same through transformers alone, one row after another, from the text of the prompts on."""
    plain = SimpleNamespace(
        model=model, processor=processor, tokenizer=processor.tokenizer, banned_token_ids=policy.banned_token_ids
    )
    prompts = [processed(plain, tiny, prompt.token_ids, prompt.images) for prompt in ask(policy)]
    return torch.cat([plain_logps(plain, p, ids) for p, group in zip(prompts, answers, strict=True) for ids in group])


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_transformers_and_this_package_score_as_the_trainer_does(case, policy, tmp_path):
    tiny, directory = case
    answers = answer(policy)
    write_policy(policy, tmp_path, FLOAT32)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype="auto").eval()
    processor = AutoProcessor.from_pretrained(tmp_path)
    expected = scored(policy, answers)
    assert_same(scored_plainly(model, processor, policy, tiny, answers), expected)
    like = tiny.family(str(directory))
    loaded, base = ModelSource(str(tmp_path)).load(like), ModelSource().load(like)
    assert_same(scored(loaded, answers), expected)
    assert loaded.most_image_tokens == policy.most_image_tokens < base.most_image_tokens
    assert (expected - scored(policy.base(), answers)).abs().mean() > 0.01
    assert set(load_file(tmp_path / "model.safetensors")) == set(load_file(directory / "model.safetensors"))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= export_bytes(policy, FLOAT32)


def test_an_adapter_alone(case, tmp_path):
    """peft puts it on the plain model of transformers; here it is merged; images are cut as in training."""
    tiny, directory = case
    policy = make_policy(case, lora=True)
    write_policy(policy, tmp_path, ADAPTER)
    base = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32)
    layers = [name for name, m in base.named_modules() if isinstance(m, torch.nn.Linear) and name != "lm_head"]
    names = {f"base_model.model.{name}.lora_{each}.weight" for name in layers for each in "AB"}
    assert set(load_file(tmp_path / "adapter_model.safetensors")) == names
    model, processor = PeftModel.from_pretrained(base, tmp_path).eval(), AutoProcessor.from_pretrained(tmp_path)
    base.config.image_grid_pinpoints = getattr(policy.model.config, "image_grid_pinpoints", None)  # LLaVA-OneVision's
    answers = answer(policy)
    expected = scored(policy, answers)
    assert_same(scored_plainly(model, processor, policy, tiny, answers), expected)
    loaded = ModelSource(str(tmp_path)).load(tiny.family("elsewhere"))
    assert_same(scored(loaded, answers), expected)
    assert loaded.most_image_tokens == policy.most_image_tokens
