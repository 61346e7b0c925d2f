"""Plans of small models of every family: their weights are those of the real model, and their memory is near it."""

import gc
from pathlib import Path

import pytest
import torch
from PIL import Image

import families
import text_models
from benchmarks.workload import Size, autocast, make_batch
from live_bytes import LiveBytes
from visplay.cli import instantiate
from visplay.modules import CausalLM, LoRA, Tuning
from visplay.modules.learner.group_batch import GroupBatch
from visplay.modules.policy.attention import many_token_dtype
from visplay.planning.activations import Precision
from visplay.planning.memory import Micro, Training, activations
from visplay.planning.plan_tables import amounts_lines, notes, rejections
from visplay.planning.reading import given_device, read_settings
from visplay.planning.run_plan import make_plan
from visplay.planning.shapes import build_empty, measure_shape, sides
from visplay.types import Completion, Prompt, Rollout

CONFIGS = Path(__file__).parents[2] / "configs"
FP32, BF16 = torch.float32, torch.bfloat16
SIZE = Size(prompts=1, group=4, tokens=48, side=84)
LARGEST = {"Qwen3-VL": (2800, 14), "Idefics3": (84, 84), "LLaVA-OneVision": (112, 112), "InternVL": (84, 56)}
TEXT = {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 8, "num_key_value_heads": 2}
VISION = {"hidden_size": 128, "intermediate_size": 448}


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """Wider models than the tiny ones, so that states are most of the memory."""
    made = {name: tmp_path_factory.mktemp("family") for name in LARGEST}
    with pytest.MonkeyPatch.context() as patch:
        for known, wider in ((families.TEXT, TEXT), (families.VISION, VISION)):
            for key, value in wider.items():
                patch.setitem(known, key, value)
        for name, directory in made.items():
            families.FAMILIES[name].write(directory)
    return made


@pytest.mark.parametrize("name", LARGEST)
def test_a_plan_counts_what_the_family_says(directories, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    family, path = families.FAMILIES[name].family, directories[name]
    given = [f"--model.init_args.vlm.class_path=visplay.modules.{family.__name__}"]
    given += [f"--model.init_args.vlm.init_args.path={path}"]
    built = instantiate([f"--config={CONFIGS / 'tiny.yaml'}", *given, f"--config={CONFIGS / 'lora.yaml'}"])
    settings = read_settings(built.model, built.callbacks, built.trainer, given_device("cpu", 8.0, 0, None))
    vlm = _load(name, path, tuning=built.model.reasoner.vlm.tuning)
    assert settings.shape.weights + settings.shape.adapter_weights == sum(w.numel() for w in vlm.parameters())
    assert settings.shape.adapter_weights == sum(w.numel() for w in vlm.trained_weights())
    assert make_plan(settings).problems == ()
    largest = Image.new("RGB", LARGEST[name])
    assert vlm.image_tokens(largest) <= vlm.most_image_tokens == settings.image.most_tokens
    assert settings.image.most_patches(settings.shape.patches_per_token) == _patches(vlm, largest)


def test_a_family_that_cannot_pack_is_not_checkpointed(tmp_path):
    families.gemma3(tmp_path)
    given = [f"--config={CONFIGS / 'tiny.yaml'}", "--model.vlm=visplay.modules.Gemma3", f"--model.vlm.path={tmp_path}"]

    def settings(*more):
        built = instantiate([*given, *more])
        return read_settings(built.model, built.callbacks, built.trainer, given_device("cpu", 0.01, 0, None))

    plan = make_plan(settings())
    why = "the tokens of an image attend both ways"
    assert plan.settings.why_padded == why
    assert plan.settings.image.most_tokens == 20
    assert any(f"groups are not packed into one row ({why})" in note for note in notes(plan))
    assert plan.problems
    assert not any("gradient_checkpointing" in line for line in rejections(plan))
    with pytest.raises(ValueError, match=f"gradient_checkpointing: true needs groups packed .* and {why}; give false"):
        settings("--model.vlm.gradient_checkpointing=true")
    assert settings("--model.vlm.attn_implementation=sdpa").why_padded.startswith("attn_implementation is 'sdpa'")


WAYS = pytest.mark.parametrize(
    ("dtype", "checkpointed", "lora"), [(FP32, False, False), (BF16, True, False), (FP32, True, True)]
)


@pytest.mark.parametrize("name", LARGEST)
@WAYS
def test_memory_is_near_the_real_one(directories, name, dtype, checkpointed, lora):
    tuning = Tuning(("vision_tower", "projector"), LoRA(rank=16)) if lora else Tuning()
    vlm = _load(name, directories[name], tuning=tuning, gradient_checkpointing=checkpointed)
    batch = make_batch(vlm, SIZE)
    rows, tokens = int(batch.mask.sum()), int(batch.prompt_tokens.sum())
    micro = Micro(tokens + rows - SIZE.group, rows, _patches(vlm, *batch.prompts[0].images))
    precision = Precision(dtype.itemsize, many_token_dtype(torch.device("cpu"), dtype).itemsize)
    training = Training(precision, checkpointed, accumulated=True, frozen=frozenset(tuning.freeze))
    planned = activations(measure_shape(build_empty(vlm, vlm.model.config)), micro, training)
    with autocast(vlm, dtype):
        _pass(vlm, batch)  # leaves its gradients
        peak = _pass(vlm, batch)
    assert 0.94 < planned.peak / peak < (1.11 if name == "InternVL" else 1.1)  # an upper estimate where there are tiles


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A wide language model without images."""
    directory = tmp_path_factory.mktemp("llama")
    with pytest.MonkeyPatch.context() as patch:
        for key, value in TEXT.items():
            patch.setitem(families.TEXT, key, value)
        text_models.llama_without_padding(directory)
    return directory


def test_a_plan_of_a_language_model(llama):
    vlm = "--model.init_args.vlm.init_args"
    small = [f"{vlm}.path={llama}", f"{vlm}.max_context_tokens=1000"]
    built = instantiate([f"--config={CONFIGS / 'r_zero.yaml'}", *small, f"--config={CONFIGS / 'lora.yaml'}"])
    settings = read_settings(built.model, built.callbacks, built.trainer, given_device("cpu", 8.0, 0, None))
    vlm = CausalLM(str(llama), tuning=built.model.reasoner.vlm.tuning)
    vlm.load()
    assert settings.shape.weights + settings.shape.adapter_weights == sum(w.numel() for w in vlm.parameters())
    assert settings.shape.adapter_weights == sum(w.numel() for w in vlm.trained_weights())
    assert (settings.image.most_tokens, settings.image.least_tokens, settings.image.most_patches(1)) == (0, 0, 0)
    (challenger, _) = settings.roles
    assert settings.longest_prompt(challenger) == challenger.template_tokens > 200
    plan = make_plan(settings)
    assert {problem.kind for problem in plan.problems} == {"context"}  # of 1,000 tokens
    lines = dict(amounts_lines(plan))
    assert "tokens of an image" not in lines
    assert lines["data set, an iteration"] == "8,000 questions, 72,000 votes"


@WAYS
def test_memory_of_a_language_model_is_near_the_real_one(llama, dtype, checkpointed, lora):
    tuning = Tuning(("vision_tower", "projector"), LoRA(rank=16)) if lora else Tuning()
    vlm = CausalLM(str(llama), tuning=tuning, gradient_checkpointing=checkpointed)
    vlm.load()
    rollout = Rollout((Prompt("a", tuple(range(60, 100)), ()),), (_completions(4, 160),))
    batch = GroupBatch.collate(rollout, [40], vlm.device)
    rows = int(batch.mask.sum())
    precision = Precision(dtype.itemsize, many_token_dtype(torch.device("cpu"), dtype).itemsize)
    training = Training(precision, checkpointed, accumulated=True, frozen=frozenset(tuning.freeze))
    micro = Micro(40 + rows - 4, rows, 0)
    planned = activations(measure_shape(build_empty(vlm, vlm.model.config)), micro, training)
    with autocast(vlm, dtype):
        _pass(vlm, batch)  # leaves its gradients
        peak = _pass(vlm, batch)
    assert 0.94 < planned.peak / peak < 1.1


def _completions(number, tokens):
    """Different ones, as what is the same is read once."""
    rows = (tuple(60 + (n + i) % 300 for n in range(tokens)) for i in range(number))
    return tuple(Completion(ids, (-1.0,) * tokens, "", finished=True) for ids in rows)


def _pass(vlm, batch):
    """Bytes at the peak of a pass forward and back."""
    live = LiveBytes([*vlm.parameters(), *vlm.buffers()])
    with live:
        loss = vlm.logps(batch.prompts, batch.token_ids, batch.mask)[0].sum()
        gc.collect()
        live.peak = live.now
        loss.backward()
    return live.peak


def _load(name, directory, **settings):
    vlm = families.FAMILIES[name].family(str(directory), **settings)
    vlm.load()
    return vlm


def _patches(vlm, *images):
    """Patches of images as they are processed."""
    pixels, vision = vlm.process_images(images), vlm.model.config.vision_config
    if hasattr(pixels, "grids"):
        return len(pixels.values)
    height, patch = sides(vision.image_size)[0], sides(vision.patch_size)[0]
    return len(pixels.values.flatten(0, -4)) * (height // patch) ** 2
