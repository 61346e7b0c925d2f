import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from visplay.tiny import FROM_DESCRIPTION
from visplay.tiny.cold_start.batches import Packer, Turn
from visplay.tiny.cold_start.curriculum import answer_target, relax
from visplay.tiny.cold_start.model import build_model, build_processor, save
from visplay.tiny.cold_start.tokenizer import build_tokenizer
from visplay.tiny.shapes import SHAPES
from visplay.tiny.shapes.shape_scenes import render, sample_scene


@pytest.fixture(scope="module")
def parts():
    tokenizer = build_tokenizer(0)
    return build_model(tokenizer, 0).eval(), build_processor(tokenizer)


def test_size_and_seed(parts):
    model, processor = parts
    assert 1.2e6 < sum(weight.numel() for weight in model.parameters()) < 1.3e6
    again = build_model(processor.tokenizer, 0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_saved_directory_loads_by_auto_classes(parts, tmp_path):
    model, processor = parts
    save(tmp_path, model, processor)
    loaded, again = AutoModelForImageTextToText.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert type(again) is type(processor)
    assert again.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert again.tokenizer.chat_template == processor.tokenizer.chat_template
    ids = processor.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert loaded.generation_config.eos_token_id == ids


@pytest.mark.parametrize(("size", "most"), [((56, 56), 16), ((640, 480), 16), ((100, 700), 16), ((1, 1), 16)])
def test_any_image_is_about_sixteen_tokens(parts, size, most):
    _, processor = parts
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is in a1?"}]}],
        add_generation_prompt=True,
    )
    inputs = processor(text=[text], images=[Image.new("RGB", size)], return_tensors="pt")
    tokens = int((inputs["input_ids"] == processor.image_token_id).sum())
    assert tokens == int(inputs["image_grid_thw"].prod()) // 4
    assert 5 <= tokens <= most


def test_a_packed_row_equals_single_rows(parts):
    model, processor = parts
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng, held_out=False) for _ in range(2)]
    images = [render(scene, rng) for scene in scenes]
    packer = Packer(model, processor)
    turns = [relax(SHAPES, scene, rng)[:size] for scene, size in zip(scenes, (3, 5), strict=True)]
    packed = _losses(model, packer.pack(turns), packer.images(images))
    single = [
        _losses(model, packer.pack([[turn]]), packer.images([image]))
        for image, group in zip(images, turns, strict=True)
        for turn in group
    ]
    torch.testing.assert_close(packed, torch.cat(single), atol=1e-5, rtol=1e-5)


def test_a_packed_row_equals_the_plain_forward(parts):
    model, processor = parts
    rng = np.random.default_rng(1)
    scene = sample_scene(rng, held_out=False)
    image, turn = render(scene, rng), relax(SHAPES, scene, rng)[-1]
    packer = Packer(model, processor)
    packed = packer.pack([[turn]])
    content = [{"type": "image"}, {"type": "text", "text": turn.question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=[text + turn.target + "<|im_end|>"], images=[image], return_tensors="pt")
    assert inputs["input_ids"].tolist() == packed.ids.tolist()
    with torch.inference_mode():
        plain, ours = model(**inputs).logits, _logits(model, packed, packer.images([image]))
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)


def test_a_packed_turn_without_the_image_equals_the_plain_forward(parts):
    model, processor = parts
    rng = np.random.default_rng(1)
    scenes = [sample_scene(rng, held_out=False) for _ in range(2)]
    seeing = [relax(SHAPES, scene, rng)[-1] for scene in scenes]
    turn = Turn(FROM_DESCRIPTION, r"\boxed{yes}", "Is there a red circle?", "a1 small red circle")
    packer = Packer(model, processor)
    batch = packer.pack([[turn, seeing[0]], [seeing[1], turn]])
    losses = _losses(model, batch, packer.images([render(scene, rng) for scene in scenes]))
    content = "a1 small red circle Is there a red circle?"
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    ids = processor.tokenizer(text, return_tensors="pt")["input_ids"]
    reply = processor.tokenizer(turn.target + "<|im_end|>", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logits = model(input_ids=torch.cat([ids, reply], 1)).logits[0, ids.shape[1] - 1 : -1]
    plain = torch.nn.functional.cross_entropy(logits, reply[0], reduction="none")
    for found in (losses[: len(plain)], losses[-len(plain) :]):
        torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)


def test_only_replies_are_learned(parts):
    model, processor = parts
    scene = sample_scene(np.random.default_rng(0), held_out=False)
    turn = relax(SHAPES, scene, np.random.default_rng(0))[0]
    batch = Packer(model, processor).pack([[turn, turn]])
    learned = batch.targets[batch.targets >= 0]
    assert processor.tokenizer.decode(learned) == 2 * (turn.target + "<|im_end|>")


def test_turn_is_hashable_and_target_styles_differ():
    from visplay.prompts import Template
    from visplay.tiny.world import Solution

    solution = Solution("2", "a1 c2")
    assert len({Turn(Template("x"), answer_target(solution, listed=listed)) for listed in (True, False, True)}) == 2


def _logits(model, batch, pixels):
    return model(input_ids=batch.ids, position_ids=batch.positions, attention_mask=batch.mask, **pixels).logits


def _losses(model, batch, pixels):
    with torch.inference_mode():
        logits = _logits(model, batch, pixels)
    learned = batch.targets >= 0
    return torch.nn.functional.cross_entropy(logits[learned], batch.targets[learned], reduction="none")
