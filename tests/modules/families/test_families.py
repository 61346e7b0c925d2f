"""Every family against plain transformers, on tiny models with random weights."""

import re

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from families import FAMILIES, plain_logps, processed
from visplay.callbacks import TransformersRollout
from visplay.modules import Gemma3, InternVL, LlavaOnevision, SmolVLM, Tuning
from visplay.modules.families.qwen2_5_vl import most_scaled_tokens
from visplay.modules.policy.attention import GROUPED_SDPA
from visplay.modules.policy.hidden_states import padded_hidden_states
from visplay.prompts import Template
from visplay.types import Sampling

TEMPLATE = Template(user="{question}", system="Be good.")
SIZES = [(56, 56), (80, 40), (30, 90), (84, 84), (12, 12)]
NOISE = {size: Image.effect_noise(size, 90).convert("RGB").rotate(7, fillcolor=(200, 90, 30)) for size in SIZES}
QUESTION = "How many small blue triangles are there"


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request):
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def directory(tiny, tmp_path_factory):
    directory = tmp_path_factory.mktemp("tiny")
    tiny.write(directory)
    return str(directory)


@pytest.fixture(scope="module")
def loaded(tiny, directory):
    vlm = tiny.family(directory)
    vlm.load()
    return vlm


@pytest.fixture
def vlm(loaded):
    loaded.zero_grad()
    return loaded


def prompts_of(vlm, *images):
    """A prompt for each tuple of sizes."""
    return [
        vlm.encode(f"{i}", TEMPLATE, [NOISE[size] for size in sizes], question=QUESTION + " in row 3" * i + "?")
        for i, sizes in enumerate(images)
    ]


def answers(vlm, lengths):
    """Ids (N, G, T) and mask of answers of given lengths."""
    lengths = torch.tensor(lengths)
    shape = (*lengths.shape, int(lengths.max()))
    token_ids = torch.randint(0, 440, shape, generator=torch.Generator().manual_seed(0))
    assert not torch.isin(token_ids, vlm.banned_token_ids).any()
    return token_ids, torch.arange(shape[-1]) < lengths[..., None]


def gradients(vlm, loss):
    vlm.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in vlm.named_parameters() if weight.grad is not None}


def test_without_weights_it_writes_and_measures_the_same_prompts(tiny, directory, vlm):
    empty = tiny.family(directory)
    empty.load(weights=False)
    assert {weight.device.type for weight in empty.parameters()} == {"meta"}
    asked = [prompts_of(each, [(56, 56)], [(80, 40)]) for each in (empty, vlm)]
    assert asked[0] == asked[1]
    assert [empty.prompt_tokens(prompt) for prompt in asked[0]] == [vlm.prompt_tokens(prompt) for prompt in asked[1]]
    assert empty.context_tokens == vlm.context_tokens
    assert empty.decode([5, 6, 7]) == vlm.decode([5, 6, 7])


CASES = {
    "one image each": ([[(56, 56)], [(80, 40)]], [[7, 1, 3], [2, 12, 5]]),
    "several images": ([[(80, 40), (30, 90), (12, 12)], [(84, 84)], [(30, 90)]], [[3, 2], [1, 5], [4, 4]]),
    "the same image again": ([[(80, 40)], [(80, 40)], [(30, 90), (80, 40)]], [[3, 2], [1, 5], [4, 4]]),
    "no image": ([[], []], [[3, 2], [1, 5]]),
    "some without": ([[], [(30, 90)], []], [[3, 2], [1, 5], [1, 1]]),
    "one completion": ([[(84, 84)]], [[9]]),
}


def assert_plain(vlm, tiny, prompts, token_ids, mask):
    """Log-probabilities and every gradient are those of plain rows, prepared by the checkpoint's own processor."""
    weights = torch.rand(mask.shape, generator=torch.Generator().manual_seed(1)) - 0.3
    logps, _ = vlm.logps(prompts, token_ids, mask)
    ours = gradients(vlm, (logps * weights).sum())
    total = torch.zeros(())
    for n, prompt in enumerate(prompts):
        inputs = processed(vlm, tiny, prompt.token_ids, prompt.images)
        for j in range(mask.shape[1]):
            plain = plain_logps(vlm, inputs, token_ids[n, j][mask[n, j]])
            torch.testing.assert_close(logps[n, j][mask[n, j]], plain, rtol=0, atol=1e-5)
            total = total + (plain * weights[n, j][mask[n, j]]).sum()
    plain = gradients(vlm, total)
    assert ours.keys() == plain.keys()
    for name, gradient in plain.items():
        assert (gradient - ours[name]).norm() <= 1e-4 * gradient.norm() + 1e-6, name


BOTH_WAYS = "the tokens of an image attend both ways"


@pytest.mark.parametrize("case", CASES)
def test_rows_equal_plain_transformers(vlm, tiny, case):
    """Packed, but where attention is not plainly causal."""
    assert vlm.why_not_packed() == (BOTH_WAYS if tiny.family is Gemma3 else None)
    images, lengths = CASES[case]
    assert_plain(vlm, tiny, prompts_of(vlm, *images), *answers(vlm, lengths))


@pytest.mark.parametrize("case", ["several images", "some without"])
def test_padded_rows_equal_plain_transformers(vlm, tiny, case, monkeypatch):
    monkeypatch.setattr(type(vlm), "packs", False)
    assert vlm.why_not_packed() == f"{type(vlm).__name__} does not say that it can be"
    images, lengths = CASES[case]
    assert_plain(vlm, tiny, prompts_of(vlm, *images), *answers(vlm, lengths))


def test_with_another_attention(vlm, tiny, directory):
    other = tiny.family(directory, attn_implementation="sdpa")
    other.load()
    packed = f"attn_implementation is 'sdpa', not {GROUPED_SDPA!r}"
    assert other.why_not_packed() == (BOTH_WAYS if tiny.family is Gemma3 else packed)
    images, lengths = CASES["several images"]
    batch = prompts_of(vlm, *images), *answers(vlm, lengths)
    torch.testing.assert_close(other.logps(*batch)[0], vlm.logps(*batch)[0], rtol=0, atol=1e-5)


def test_with_gradient_checkpointing(vlm, tiny, directory):
    other = tiny.family(directory, gradient_checkpointing=True)
    other.load()
    images, lengths = CASES["several images"]
    batch = prompts_of(vlm, *images), *answers(vlm, lengths)
    if tiny.family is Gemma3:
        with pytest.raises(ValueError, match=f"gradient_checkpointing: true needs groups .* and {BOTH_WAYS}"):
            other.logps(*batch)
        return
    ours, plain = (gradients(each, each.logps(*batch)[0].sum()) for each in (other, vlm))
    assert ours.keys() == plain.keys()
    for name, gradient in plain.items():
        assert (gradient - ours[name]).norm() <= 1e-4 * gradient.norm() + 1e-6, name


def test_a_group_equals_its_single_rows(vlm):
    (prompt,) = prompts_of(vlm, [(80, 40)])
    token_ids, mask = answers(vlm, [[7, 1, 3, 12]])
    with torch.no_grad():
        together, entropies = vlm.logps([prompt], token_ids, mask)
        for j in range(mask.shape[1]):
            alone, entropy = vlm.logps([prompt], token_ids[:, j : j + 1], mask[:, j : j + 1])
            torch.testing.assert_close(together[:, j : j + 1], alone, rtol=0, atol=1e-5)
            torch.testing.assert_close(entropies[:, j : j + 1], entropy, rtol=0, atol=1e-5)


def test_a_shared_front_equals_each_prompt_alone(vlm, tiny, monkeypatch):
    prompts = [vlm.encode(q, TEMPLATE, NOISE[84, 84], question=q) for q in ("Where?", "Is it red?", "What is it?")]
    token_ids, mask = answers(vlm, [[3], [5], [4]])
    read, run = [], type(vlm).language_model
    monkeypatch.setattr(
        type(vlm),
        "language_model",
        lambda self, e, *rest, **types: (read.append(tuple(e.shape[:2])), run(self, e, *rest, **types))[1],
    )
    with torch.no_grad():
        padded = padded_hidden_states(vlm, prompts, token_ids, mask)
        assert [rows for rows, _ in read[:2]] == ([3, 3] if tiny.family is Gemma3 else [1, 3])
        alone = [padded_hidden_states(vlm, prompts[i : i + 1], token_ids[i : i + 1], mask[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(padded, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_gradients_reach_every_part_and_frozen_ones_stay(vlm, tiny, directory):
    batch = prompts_of(vlm, [(80, 40)]), *answers(vlm, [[7, 3]])
    reached = gradients(vlm, vlm.logps(*batch)[0].sum())
    names = {id(weight): name for name, weight in vlm.named_parameters()}
    parts = {
        part: {names[id(weight)] for module in modules for weight in module.parameters()}
        for part, modules in vlm.parts().items()
    }
    assert set.union(*parts.values()) == set(names.values())
    for part, members in parts.items():
        assert sum(float(reached[name].norm()) > 0 for name in members & reached.keys()) > 0.8 * len(members), part
    frozen = tiny.family(directory, tuning=Tuning(["vision_tower", "language_model"]))
    frozen.load()
    assert gradients(frozen, frozen.logps(*batch)[0].sum()).keys() == parts["projector"] & reached.keys()


def test_banned_tokens_are_never_sampled(vlm, monkeypatch):
    control = {index for index, token in vlm.tokenizer.added_tokens_decoder.items() if token.special}
    assert set(vlm.banned_token_ids.tolist()) == control - set(vlm.stop_token_ids)
    assert vlm.image_token_id in control
    head = vlm.model.get_output_embeddings()
    wanted = head.weight.detach().clone()
    wanted[vlm.banned_token_ids] *= 30  # which they would be, now and again
    prompts = prompts_of(vlm, [(56, 56)], [(80, 40), (12, 12)], [])
    sampling = Sampling(n=8, max_new_tokens=12, seed=3)
    held = head.weight.data
    head.weight.data = wanted
    try:
        with torch.no_grad():
            first, _ = vlm.prefill(prompts)
            free = (first @ wanted.T).softmax(-1)[:, vlm.banned_token_ids].sum(-1)
            groups = TransformersRollout().generate(vlm, prompts, sampling)
    finally:
        head.weight.data = held
    assert free.max() > 0.5
    sampled = {token for group in groups for completion in group for token in completion.token_ids}
    assert len(sampled) > 20
    assert not sampled & set(vlm.banned_token_ids.tolist())


def test_samples_carry_the_log_probabilities_of_training(vlm):
    prompts = prompts_of(vlm, [(56, 56)], [(80, 40), (12, 12)], [])
    for prompt, group in zip(
        prompts, TransformersRollout().generate(vlm, prompts, Sampling(n=2, max_new_tokens=8)), strict=True
    ):
        for completion in group:
            token_ids = torch.tensor(completion.token_ids)[None, None]
            with torch.no_grad():
                logps, _ = vlm.logps([prompt], token_ids, torch.ones_like(token_ids, dtype=torch.bool))
            torch.testing.assert_close(logps[0, 0], torch.tensor(completion.logps), rtol=0, atol=1e-5)


def test_an_image_becomes_what_the_processor_makes_of_it(vlm, tiny):
    most = 0
    sides = (5, 12, 28, 29, 55, 56, 57, 83, 84, 85, 113, 200, 333)
    for size in ((width, height) for width in sides for height in sides):
        image = Image.new("RGB", size, (90, 40, 120))
        prompt = vlm.encode("k", TEMPLATE, image, question="Where?")
        inputs = processed(vlm, tiny, prompt.token_ids, [image])
        batch = vlm.collate([prompt])
        assert torch.equal(batch.input_ids, inputs["input_ids"]), size
        assert vlm.image_tokens(image) == len(vlm.image_token_ids(image))
        assert vlm.prompt_tokens(prompt) == batch.input_ids.shape[1]
        most = max(most, vlm.image_tokens(image))
    narrow = ((8 * ratio + more, 8) for ratio in (1, 3, 7, 19, 20, 21, 50, 100, 199) for more in range(9))
    large = ((20 * ratio, 20) for ratio in (40, 100, 150, 199, 200))
    for width, height in (*narrow, *large):
        for size in ((width, height), (height, width)):
            most = max(most, vlm.image_tokens(Image.new("RGB", size)))
    assert most <= vlm.most_image_tokens <= 1.5 * most


@pytest.mark.parametrize("least", [1, 4, 9, 20, 64, 300])
@pytest.mark.parametrize("most", [9, 20, 64, 300, 5349])
def test_no_image_has_more_tokens_than_the_bound(least, most):
    """Every shape that the processor's own arithmetic could treat differently."""
    if least > most:
        pytest.skip("no limits")
    bound, found = most_scaled_tokens(least * 784, most * 784, 784), 0
    shorts = (*range(8, 60), 100, 333)
    for short in shorts:
        for ratio in (*(1 + step / 16 for step in range(64)), *range(5, 201), 199.9):
            sides = smart_resize(short, int(short * ratio), 28, least * 784, most * 784)
            found = max(found, sides[0] * sides[1] // 784)
    assert found <= bound <= 1.15 * found


def test_what_a_user_writes_is_no_control_token(vlm):
    plain = vlm.encode("k", TEMPLATE, NOISE[56, 56], question="x")
    control = {index for index, token in vlm.tokenizer.added_tokens_decoder.items() if token.special}
    words = "".join(vlm.tokenizer.convert_ids_to_tokens(sorted(control)))
    attack = vlm.encode("k", TEMPLATE, NOISE[56, 56], question=f"x{words}y")
    assert [t for t in attack.token_ids if t in control] == [t for t in plain.token_ids if t in control]
    assert "Be good." in vlm.tokenizer.decode(plain.token_ids)


def test_saved_and_loaded_again(vlm, tiny, tmp_path):
    changed = vlm.frozen_copy()
    with torch.no_grad():
        for weight in changed.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    changed.save(tmp_path)
    again = tiny.family(str(tmp_path))
    again.load()
    images, lengths = CASES["several images"]
    batch = prompts_of(vlm, *images), *answers(vlm, lengths)
    with torch.no_grad():
        assert torch.equal(again.logps(*batch)[0], changed.logps(*batch)[0])
        assert (again.logps(*batch)[0] - vlm.logps(*batch)[0]).abs().max() > 0.1
    assert again.stop_token_ids == vlm.stop_token_ids


def test_a_saved_model_has_the_names_that_it_was_loaded_with(vlm, directory, tmp_path):
    vlm.save(tmp_path)
    names = [set(load_file(f"{each}/model.safetensors")) for each in (directory, tmp_path)]
    assert names[0] == names[1]
    wrapped = r"\b(language_model|model)\."  # which engines know how to put on and off
    sent = [re.sub(wrapped, "", name) for name, _ in vlm.weights()]
    assert sorted(sent) == sorted(re.sub(wrapped, "", name) for name in names[0])


def test_pixel_limits_hold_for_the_base_too(tiny, directory):
    """A family that can be told less reads what a plain forward reads then, too."""
    if tiny.family is Gemma3:
        pytest.skip("its images have one size")
    area = {SmolVLM: 56 * 56 + 900, LlavaOnevision: 28 * 84, InternVL: 28 * 28 * 2}.get(tiny.family, 14 * 14 * 9)
    vlm = tiny.family(directory, max_pixels=area)
    vlm.load()
    whole = tiny.family(directory)
    whole.load()
    assert vlm.most_image_tokens < whole.most_image_tokens
    assert all(vlm.image_tokens(image) <= vlm.most_image_tokens for image in NOISE.values())
    batch = prompts_of(vlm, [(84, 84), (80, 40)], [(30, 90)]), *answers(vlm, [[3, 2], [1, 5]])
    assert_plain(vlm, tiny, *batch)
    with torch.no_grad():
        torch.testing.assert_close(vlm.base().logps(*batch)[0], vlm.logps(*batch)[0], rtol=0, atol=1e-5)


IMPOSSIBLE = {
    SmolVLM: [
        ({"min_pixels": 9}, "min_pixels: 9, but SmolVLM scales all images up; give null"),
        ({"max_pixels": 783}, "max_pixels: 783 must be at least 784, the area of a tile"),
    ],
    LlavaOnevision: [({"max_pixels": 783}, "canvases of 784 to 12544 pixels, and none is within")],
    Gemma3: [({"max_pixels": 783}, "max_pixels=783: Gemma 3 has one size; give null")],
    InternVL: [
        ({"min_pixels": 9}, "min_pixels: 9, but InternVL scales all images to tiles; give null"),
        ({"max_pixels": 783}, "max_pixels: 783 must be at least 784, the area of a tile"),
    ],
}
QWEN = [({"min_pixels": 99999}, "with the checkpoint's they are 99999 and 3920; give both")]


def test_pixel_limits_that_a_family_cannot_have(tiny, directory):
    for limits, message in IMPOSSIBLE.get(tiny.family, QWEN):
        with pytest.raises(ValueError, match=message):
            tiny.family(directory, **limits).load()


def test_tiles_that_transformers_would_miscount(tiny, directory, monkeypatch):
    if tiny.family is not SmolVLM:
        pytest.skip("its images are not cut into tiles of a longest side")
    monkeypatch.setattr(tiny.family, "_longest_side", 90)
    with pytest.raises(ValueError, match="a longest side of 90, which must be a multiple of a tile's 28"):
        tiny.family(directory).load()
