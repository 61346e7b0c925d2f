"""What is written of a policy, and that plain transformers, peft and this package load the same model from it."""

import json

import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from visplay.modules import LoRA, Qwen2_5_VL, Tuning
from visplay.modules.policy.weights.loading import ADAPTER_CONFIG
from visplay.modules.policy.weights.model_source import ModelSource
from visplay.modules.policy.weights.saving import ExportFormat, export_bytes, write_policy
from visplay.tiny import ANSWER, BASE

FLOAT32, BFLOAT16 = ExportFormat("float32"), ExportFormat("bfloat16")
IDS = torch.randint(0, 400, (1, 3, 6), generator=torch.Generator().manual_seed(0))


def make_policy(lora):
    vlm = Qwen2_5_VL(str(BASE), tuning=Tuning((), LoRA(rank=3, alpha=6) if lora else None), max_pixels=25 * 14**2)
    vlm.load()
    with torch.no_grad():
        for weight in vlm.trained_weights():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
    return vlm


@pytest.fixture(params=[False, True], ids=["whole", "adapter"])
def policy(request):
    return make_policy(request.param)


def ask(vlm):
    return vlm.encode("p", ANSWER, Image.new("RGB", (70, 42), "red"), question="How many red circles are there?")


@torch.no_grad()
def scored(vlm):
    """Log-probabilities (3, 6) of made-up answers under a policy."""
    return vlm.logps([ask(vlm)], IDS, torch.ones_like(IDS, dtype=torch.bool))[0][0]


@torch.no_grad()
def scored_plainly(model, processor, policy):
    """The same through transformers alone, from the processor that was exported."""
    rows = []
    image = Image.new("RGB", (70, 42), "red")
    pixels = processor.image_processor(images=[image], return_tensors="pt")
    tokens = int(pixels["image_grid_thw"].prod()) // processor.image_processor.merge_size**2
    image_id = processor.image_token_id
    prompt = [t for token in ask(policy).token_ids for t in ([token] * tokens if token == image_id else [token])]
    for ids in IDS[0]:
        row = torch.tensor([prompt + ids.tolist()])
        out = model(input_ids=row, **pixels, mm_token_type_ids=(row == image_id).int())
        logits = out.logits[0, len(prompt) - 1 : -1].float().index_fill(-1, policy.banned_token_ids, -1e30)
        rows.append(logits.log_softmax(-1).gather(-1, ids[:, None]).squeeze(-1))
    return torch.stack(rows)


def test_transformers_scores_as_the_trainer_does(policy, tmp_path):
    write_policy(policy, tmp_path, FLOAT32)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype="auto").eval()
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert model.dtype == torch.float32
    torch.testing.assert_close(scored_plainly(model, processor, policy), scored(policy), rtol=0, atol=1e-5)
    assert (scored(policy) - scored(policy.base())).abs().max() > 0.1
    assert processor.image_processor.size["longest_edge"] == 25 * 14**2  # images are cut as in training


def test_it_is_loaded_here(policy, tmp_path):
    write_policy(policy, tmp_path, FLOAT32)
    loaded = ModelSource(str(tmp_path)).load(policy)
    torch.testing.assert_close(scored(loaded), scored(policy), rtol=0, atol=1e-5)
    assert loaded.adapters is None


@pytest.mark.parametrize("form", [BFLOAT16, ExportFormat("float16")])
def test_weights_are_cast_once_and_the_configuration_says_so(policy, tmp_path, form):
    write_policy(policy, tmp_path, FLOAT32)
    write_policy(policy, tmp_path / "half", form)
    masters, half = (load_file(directory / "model.safetensors") for directory in (tmp_path, tmp_path / "half"))
    assert masters.keys() == half.keys()
    assert all(weight.dtype == torch.float32 for weight in masters.values())
    for name, weight in half.items():
        assert weight.dtype == form.torch_dtype
        assert weight.equal(masters[name].to(form.torch_dtype)), name
    config = json.loads((tmp_path / "half" / "config.json").read_text())
    found = [each["dtype"] for each in (config, config["text_config"], config["vision_config"])]
    assert found == [form.dtype] * 3
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "half", dtype="auto")
    assert {weight.dtype for weight in model.parameters()} == {form.torch_dtype}
    assert policy.model.config.text_config.dtype != form.torch_dtype, "the trainer's stays as it is"


def test_what_lies_in_the_directory(policy, tmp_path):
    write_policy(policy, tmp_path, BFLOAT16)
    names = {path.name for path in tmp_path.iterdir()}
    needed = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"}
    assert needed <= names
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size <= export_bytes(policy, BFLOAT16) <= size + (32 << 20)
    stop = json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"]
    assert tuple(stop) == policy.stop_token_ids
    message = [{"role": "user", "content": "Hi"}]
    assert AutoProcessor.from_pretrained(tmp_path).tokenizer.apply_chat_template(
        message, tokenize=False
    ) == policy.tokenizer.apply_chat_template(message, tokenize=False)


def test_an_adapter_alone_for_peft_and_for_here(tmp_path):
    policy = make_policy(lora=True)
    form = ExportFormat("float32", adapter_only=True)
    write_policy(policy, tmp_path, form)
    assert not (tmp_path / "model.safetensors").exists()
    assert (tmp_path / "adapter_model.safetensors").stat().st_size <= export_bytes(policy, form)
    assert export_bytes(policy, form) < export_bytes(policy, FLOAT32)
    base = AutoModelForImageTextToText.from_pretrained(BASE, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, tmp_path).eval()
    processor = AutoProcessor.from_pretrained(tmp_path)
    torch.testing.assert_close(scored_plainly(model, processor, policy), scored(policy), rtol=0, atol=1e-5)
    loaded = ModelSource(str(tmp_path)).load(Qwen2_5_VL("elsewhere", max_pixels=25 * 14**2))
    torch.testing.assert_close(scored(loaded), scored(policy), rtol=0, atol=1e-5)
    assert loaded.path == str(BASE)


def test_adapters_that_are_not_read_here(tmp_path):
    policy = make_policy(lora=True)
    write_policy(policy, tmp_path, ExportFormat("float32", adapter_only=True))
    config = json.loads((tmp_path / ADAPTER_CONFIG).read_text())
    (tmp_path / ADAPTER_CONFIG).write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(ValueError, match="is an adapter with use_dora"):
        ModelSource(str(tmp_path)).load(policy)


def test_no_adapter_to_write_alone(base, tmp_path):
    for act in (lambda form: write_policy(base, tmp_path, form), lambda form: export_bytes(base, form)):
        with pytest.raises(ValueError, match="adapter_only: this policy is no adapter but whole weights"):
            act(ExportFormat(adapter_only=True))


@pytest.mark.parametrize(("change", "kept"), [(1e-5, 0.29), (3e-5, 0.70), (1e-4, 0.99)])
def test_how_much_of_a_small_change_a_merge_into_bfloat16_keeps(change, kept):
    generator = torch.Generator().manual_seed(0)
    base = (0.02 * torch.randn(1024, 1024, generator=generator)).bfloat16().float()
    product = torch.randn(1024, 32, generator=generator) @ torch.randn(32, 1024, generator=generator)
    product *= change / product.std()
    merged = (base + product).bfloat16().float() - base
    assert float((merged * product).sum() / product.square().sum()) == pytest.approx(kept, abs=0.01)
