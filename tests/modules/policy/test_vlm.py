import pytest
import torch
from PIL import Image

from visplay.modules import PromptTooLongError, Qwen2_5_VL, Tuning
from visplay.prompts import Template
from visplay.tiny import ANSWER, BASE
from visplay.types import Prompt

QUESTIONS = ["Is there a red circle?", "b2", "How many small blue triangles are there in row 3?"]
SIZES = [(56, 56), (80, 40), (30, 90)]


def _prompts(vlm):
    images = [
        Image.effect_noise(size, 90).convert("RGB").point(lambda value, shift=40 * i: (value + shift) % 256)
        for i, size in enumerate(SIZES)
    ]
    asked = [
        vlm.encode(str(i), ANSWER, image, question=q)
        for i, (image, q) in enumerate(zip(images, QUESTIONS, strict=True))
    ]
    return [*asked, vlm.encode("again", ANSWER, images[0], question="other")]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _completions(vlm, n, g, t, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vlm.tokenizer.vocab_size - 40, (n, g, t), generator=generator)
    lengths = torch.randint(1, t + 1, (n, g), generator=generator)
    lengths[0, 0] = t
    return ids, torch.arange(t) < lengths[..., None]


def _plain_logps(vlm, prompt, token_ids):
    """One row through transformers' own forward, nothing shared."""
    batch = vlm.collate([prompt])
    row = torch.cat([batch.input_ids, token_ids[None]], 1)
    out = vlm.model(
        input_ids=row,
        pixel_values=batch.pixels.values,
        image_grid_thw=batch.pixels.grids,
        mm_token_type_ids=(row == vlm.image_token_id).int(),
    )
    logits = out.logits[0, batch.input_ids.shape[1] - 1 : -1].index_fill(-1, vlm.banned_token_ids, -1e30)
    return logits.log_softmax(-1).gather(-1, token_ids[:, None]).squeeze(-1)


@pytest.mark.parametrize(("g", "t"), [(1, 1), (3, 7)])
def test_logps_and_gradients_equal_plain_transformers(fresh_base, g, t):
    prompts = _prompts(fresh_base)
    ids, mask = _completions(fresh_base, len(prompts), g, t)
    weights = torch.rand(mask.shape) * mask

    logps, entropies = fresh_base.logps(prompts, ids, mask)
    (logps * weights).sum().backward()
    shared = {name: p.grad.clone() for name, p in fresh_base.named_parameters()}
    fresh_base.zero_grad()
    total = 0
    for n, prompt in enumerate(prompts):
        for j in range(g):
            plain = _plain_logps(fresh_base, prompt, ids[n, j][mask[n, j]])
            torch.testing.assert_close(logps[n, j][mask[n, j]], plain, rtol=0, atol=1e-5)
            total = total + (plain * weights[n, j][mask[n, j]]).sum()
    total.backward()

    assert (logps[~mask] == 0).all()
    assert (entropies[mask] > 0).all()
    for name, parameter in fresh_base.named_parameters():
        scale = parameter.grad.norm().clamp_min(1e-6)
        assert (parameter.grad - shared[name]).norm() / scale < 1e-4, name


def test_temperature_divides_the_logits(base):
    prompts = _prompts(base)[:1]
    ids, mask = _completions(base, 1, 2, 4)
    with torch.no_grad():
        first, _ = base.prefill(prompts)
        expected = base.logits(first, temperature=2.0).log_softmax(-1)[0, ids[0, :, 0]]
        logps, _ = base.logps(prompts, ids, mask, temperature=2.0)
    torch.testing.assert_close(logps[0, :, 0], expected, rtol=0, atol=1e-5)


def test_control_tokens_have_no_probability(base):
    with torch.no_grad():
        first, _ = base.prefill(_prompts(base))
        probabilities = base.logits(first).softmax(-1)
    special = set(base.tokenizer.all_special_ids)
    assert set(base.banned_token_ids.tolist()) == special - set(base.stop_token_ids)
    assert base.image_token_id in special
    assert (probabilities[:, base.banned_token_ids] == 0).all()


def test_each_distinct_image_is_processed_once(base, monkeypatch):
    seen = []
    process = type(base).process_images
    monkeypatch.setattr(
        type(base), "process_images", lambda self, images: (seen.append(len(images)), process(self, images))[1]
    )
    base.collate(_prompts(base))
    assert seen == [3]


def test_image_tokens_equal_features(base):
    for prompt in _prompts(base):
        batch = base.collate([prompt])
        tokens = int((batch.input_ids == base.image_token_id).sum())
        assert tokens == base.image_tokens(prompt.images[0]) == sum(map(len, base.image_features(batch.pixels)))


def test_prompt_longer_than_the_context(base):
    prompt = base.encode("long", ANSWER, Image.new("RGB", (56, 56)), question="a b c " * base.context_tokens)
    with pytest.raises(PromptTooLongError, match=rf"'long': \d+ tokens .* exceed the context of {base.context_tokens}"):
        base.collate([prompt])
    assert not base.fits(prompt, 1)
    short = base.encode("short", ANSWER, Image.new("RGB", (56, 56)), question="a")
    room = base.context_tokens - base.collate([short]).input_ids.shape[1]
    assert base.fits(short, room)
    assert not base.fits(short, room + 1)


def test_placeholders_must_match_images(base):
    prompt = base.encode("p", ANSWER, Image.new("RGB", (56, 56)), question="a")
    with pytest.raises(ValueError, match="'p': 1 image placeholders for 2 images"):
        base.collate([Prompt("p", prompt.token_ids, prompt.images * 2)])


def test_directory_without_processor(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no config.json and no tokenizer_config.json"):
        Qwen2_5_VL(str(tmp_path)).load()
    for name in ("config.json", "model.safetensors", "generation_config.json"):
        (tmp_path / name).write_bytes((BASE / name).read_bytes())
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer_config.json; save model AND processor"):
        Qwen2_5_VL(str(tmp_path)).load()


def test_save_can_be_loaded_again(base, tmp_path):
    base.save(tmp_path)
    again = Qwen2_5_VL(str(tmp_path))
    again.load()
    for name, weight in base.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name
    template = Template("x")
    assert (
        again.encode("k", template, Image.new("RGB", (9, 9))).token_ids
        == base.encode("k", template, Image.new("RGB", (9, 9))).token_ids
    )
    assert (tmp_path / "model.safetensors").is_file()


def test_frozen_parts_get_no_gradient(tmp_path):
    vlm = Qwen2_5_VL(str(BASE), tuning=Tuning(freeze=["vision_tower", "language_model"]))
    vlm.load()
    trained = {name for name, weight in vlm.named_parameters() if weight.requires_grad}
    assert trained
    assert all(".visual.merger." in name for name in trained)
    everything = {id(w) for modules in vlm.parts().values() for module in modules for w in module.parameters()}
    assert everything == {id(weight) for weight in vlm.parameters()}, "every weight belongs to a part"
    prompt = vlm.encode("p", ANSWER, Image.new("RGB", (56, 56), "red"), question="How many?")
    logps, _ = vlm.logps([prompt], torch.tensor([[[5, 6]]]), torch.ones(1, 1, 2, dtype=torch.bool))
    logps.sum().backward()
    assert {name for name, weight in vlm.named_parameters() if weight.grad is not None} == trained


@pytest.mark.parametrize("freeze", [["vision"], ["vision_tower", "projector", "language_model"]])
def test_what_cannot_be_frozen(freeze):
    with pytest.raises(ValueError, match=r"freeze: some of \['language_model', 'projector', 'vision_tower'\], not all"):
        Qwen2_5_VL(str(BASE), tuning=Tuning(freeze=freeze))


def test_pixel_limits_decide_how_many_tokens_an_image_becomes():
    vlm = Qwen2_5_VL(str(BASE), min_pixels=4 * 14**2, max_pixels=25 * 14**2)
    vlm.load()
    assert vlm.most_image_tokens == 70
    for size in ((14, 14), (56, 56), (700, 300), (20, 150)):
        image = Image.new("RGB", size)
        tokens = vlm.image_tokens(image)
        assert 4 <= tokens <= 25
        assert tokens == len(vlm.image_features(vlm.process_images([image]))[0])


def test_pixel_limits_that_cannot_be(monkeypatch):
    for pixels in ({"min_pixels": 9, "max_pixels": 4}, {"min_pixels": 0}, {"max_pixels": 0}):
        with pytest.raises(ValueError, match=r"min_pixels=\w+, max_pixels=\w+: need 1 <= min_pixels <= max_pixels"):
            Qwen2_5_VL(str(BASE), **pixels)
    with pytest.raises(ValueError, match="with the checkpoint's they are 99999 and 3136; give both"):
        Qwen2_5_VL(str(BASE), min_pixels=99999).load()
    with pytest.raises(ValueError, match=r"max_pixels: an image may take \d+ tokens, and the context has \d+"):
        Qwen2_5_VL(str(BASE), max_pixels=14**2 * 10**6).load()


def test_the_base_is_the_checkpoint_whatever_was_learned(fresh_base):
    with torch.no_grad():
        fresh_base.head_weight.add_(1.0)
    base = fresh_base.base()
    assert not any(weight.requires_grad for weight in base.parameters())
    assert (fresh_base.head_weight - base.head_weight).mean().item() == pytest.approx(1.0)
    copy = fresh_base.frozen_copy()
    assert torch.equal(copy.head_weight, fresh_base.head_weight)
    assert copy.head_weight is not fresh_base.head_weight


def test_prompts_without_an_image_beside_others(base):
    prompts = [
        base.encode("a", ANSWER, None, question="How many red circles?"),
        base.encode("b", ANSWER, Image.new("RGB", (56, 56), "blue"), question="Where?"),
    ]
    ids, mask = torch.tensor([[[5, 6]], [[7, 8]]]), torch.ones(2, 1, 2, dtype=torch.bool)
    together, _ = base.logps(prompts, ids, mask)
    for row in range(2):
        alone, _ = base.logps(prompts[row : row + 1], ids[row : row + 1], mask[row : row + 1])
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=0)


@pytest.fixture
def reads(monkeypatch):
    """What is read from the disk, in order."""
    found = []
    for name in ("_load_model", "read_processor"):
        read = getattr(Qwen2_5_VL, name)
        monkeypatch.setattr(
            Qwen2_5_VL, name, lambda vlm, *path, name=name, read=read: (found.append(name), read(vlm, *path))[1]
        )
    return found


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_a_policy_like_one_that_is_loaded_is_copied(reads, gradient_checkpointing):
    first, second = (Qwen2_5_VL(str(BASE), gradient_checkpointing=gradient_checkpointing) for _ in range(2))
    first.load()
    assert reads == ["read_processor", "_load_model"]
    second.load(first)
    assert len(reads) == 2
    assert second.fingerprint() == first.fingerprint()
    assert second.head_weight is second.model.get_input_embeddings().weight
    own, other = ({weight.data_ptr() for weight in vlm.model.parameters()} for vlm in (first, second))
    assert own.isdisjoint(other)
    assert [w.requires_grad for w in first.parameters()] == [w.requires_grad for w in second.parameters()]
    prompts, (ids, mask) = _prompts(first), _completions(first, 4, 2, 3)
    for vlm in (first, second):
        vlm.logps(prompts, ids, mask)[0].sum().backward()
    for one, two in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)


@pytest.mark.parametrize("settings", [{"tuning": Tuning(freeze=["vision_tower"])}, {"max_pixels": 3136}])
def test_a_policy_of_other_settings_is_read(reads, fresh_base, settings):
    reads.clear()
    Qwen2_5_VL(str(BASE), **settings).load(fresh_base)
    assert reads == ["read_processor", "_load_model"]


def test_weights_that_have_learned_are_not_copied(reads, fresh_base):
    reads.clear()
    fresh_base.version = 1
    Qwen2_5_VL(str(BASE)).load(fresh_base)
    assert reads == ["_load_model"]
