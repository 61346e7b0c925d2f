import logging
import traceback
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import visplay
from shapes import Shapes
from visplay.modules import Qwen2_5_VL, Tuning
from visplay.modules.policy import attention, hidden_states
from visplay.modules.policy.packing import Packing, Segments
from visplay.tiny import ANSWER, BASE

PACKAGE = Path(visplay.__file__).parent
NOISE = {size: Image.effect_noise(size, 90).convert("RGB") for size in [(56, 56), (80, 40), (30, 90)]}


def _prompt(policy, size, question):
    return policy.encode(question, ANSWER, NOISE[size] if size else None, question=question)


def _prompts(policy, sizes):
    return [_prompt(policy, size, "How many circles are there " + "in row 3 " * i) for i, size in enumerate(sizes)]


def _answers(policy, lengths):
    """Ids (N, G, T) and mask of answers of given lengths."""
    lengths = torch.tensor(lengths)
    generator = torch.Generator().manual_seed(0)
    shape = (*lengths.shape, int(lengths.max()))
    ids = torch.randint(0, policy.tokenizer.vocab_size - 40, shape, generator=generator)
    return ids, torch.arange(shape[-1]) < lengths[..., None]


def _plain_logps(policy, prompt, token_ids):
    """One answer as one row through transformers' own forward, nothing shared."""
    batch = policy.collate([prompt])
    row = torch.cat([batch.input_ids, token_ids[None]], 1)
    images = {"pixel_values": batch.pixels.values, "image_grid_thw": batch.pixels.grids} if prompt.images else {}
    out = policy.model(input_ids=row, mm_token_type_ids=(row == policy.image_token_id).int(), **images)
    logits = out.logits[0, batch.input_ids.shape[1] - 1 : -1].index_fill(-1, policy.banned_token_ids, -1e30)
    return logits.log_softmax(-1).gather(-1, token_ids[:, None]).squeeze(-1)


def _gradients(policy, loss):
    policy.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


def _assert_equal(policy, prompts, ids, mask):
    """Log-probabilities and every gradient are those of plain forwards, one row per answer."""
    near = 1e-12 if policy.model.dtype == torch.float64 else 1e-5
    weights = torch.rand(mask.shape, generator=torch.Generator().manual_seed(1)) - 0.3
    logps, entropies = policy.logps(prompts, ids, mask)
    ours = _gradients(policy, (logps * weights).sum())
    total = torch.zeros((), dtype=policy.model.dtype)
    for n, j in torch.cartesian_prod(torch.arange(len(prompts)), torch.arange(mask.shape[1])).tolist():
        plain = _plain_logps(policy, prompts[n], ids[n, j][mask[n, j]])
        torch.testing.assert_close(logps[n, j][mask[n, j]], plain, rtol=0, atol=near)
        total = total + (plain * weights[n, j][mask[n, j]]).sum()
    assert (logps[~mask] == 0).all()
    assert (entropies[~mask] == 0).all()
    assert (entropies[mask] > 0).all()
    plain = _gradients(policy, total)
    assert ours.keys() == plain.keys()
    for name, gradient in plain.items():
        assert (gradient - ours[name]).norm() <= 1e-4 * gradient.norm() + 1e-7, name


CASES = {
    "ragged": ([(56, 56), (80, 40)], [[7, 1, 3], [2, 12, 5]]),
    "one token each": ([(56, 56), (30, 90)], [[1, 1], [1, 1]]),
    "one answer": ([(80, 40)], [[9]]),
    "one answer each": ([(80, 40), (56, 56)], [[4], [6]]),
    "one image twice": ([(56, 56), (56, 56)], [[4, 4], [4, 4]]),
    "some without an image": ([None, (30, 90), None], [[3, 2], [1, 5], [1, 1]]),
    "none with an image": ([None, None], [[3, 2], [1, 5]]),
    "several sizes": ([(56, 56), (80, 40), (30, 90)], [[4, 6, 2, 9], [5, 5, 5, 5], [1, 2, 3, 4]]),
    "long answers": ([(56, 56)], [[150, 20, 131]]),
}


@pytest.mark.parametrize("case", CASES)
def test_packed_equals_plain_transformers(fresh_base, case):
    """In float64, where nothing but packing could differ; in float32 the plain forward itself is off by 1e-5."""
    fresh_base.model.double()
    sizes, lengths = CASES[case]
    _assert_equal(fresh_base, _prompts(fresh_base, sizes), *_answers(fresh_base, lengths))


@pytest.fixture
def ragged(fresh_base):
    sizes, lengths = CASES["ragged"]
    return fresh_base, _prompts(fresh_base, sizes), *_answers(fresh_base, lengths)


def test_with_gradient_checkpointing(ragged, monkeypatch):
    _, *batch = ragged
    policy = Qwen2_5_VL(str(BASE), gradient_checkpointing=True)
    policy.load()
    assert policy.model.training
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        policy.logps(*batch)
        with_it, kept = sum(kept), []
        ragged[0].logps(*batch)
    assert with_it < 0.5 * sum(kept)
    _assert_equal(policy, *batch)
    monkeypatch.setattr(Qwen2_5_VL, "packs", False)
    with pytest.raises(ValueError, match="gradient_checkpointing: true needs groups packed into one row, and Qwen2_5"):
        policy.logps(*batch)


def test_with_deterministic_algorithms(ragged):
    torch.use_deterministic_algorithms(True)
    try:
        _assert_equal(*ragged)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("freeze", [["vision_tower"], ["vision_tower", "language_model"], ["language_model"]])
def test_with_frozen_parts(freeze):
    policy = Qwen2_5_VL(str(BASE), tuning=Tuning(freeze=freeze))
    policy.load()
    sizes, lengths = CASES["ragged"]
    _assert_equal(policy, _prompts(policy, sizes), *_answers(policy, lengths))


def test_without_gradients(ragged):
    policy, *batch = ragged
    expected, _ = policy.logps(*batch)
    with torch.no_grad():
        logps, _ = policy.logps(*batch)
    assert not logps.requires_grad
    torch.testing.assert_close(logps, expected.detach(), rtol=0, atol=1e-6)


def test_in_autocast(ragged):
    policy, prompts, ids, mask = ragged
    exact, _ = policy.logps(prompts, ids, mask)
    expected = _gradients(policy, exact.sum())
    with torch.autocast("cpu", torch.bfloat16):
        logps, _ = policy.logps(prompts, ids, mask)
    assert logps.dtype == torch.float32
    assert (logps - exact)[mask].abs().mean() < 0.05
    ours = _gradients(policy, logps.sum())
    names = [name for name, gradient in expected.items() if gradient.norm() > 1e-3]
    similar = [torch.cosine_similarity(ours[n].flatten(), expected[n].flatten(), 0) for n in names]
    assert min(similar) > 0.95


def test_the_vision_tower_reads_each_distinct_image_once(base, monkeypatch):
    seen = []
    tower = base.model.model.visual
    forward = tower.forward
    monkeypatch.setattr(
        tower,
        "forward",
        lambda values, grid_thw, **kw: (seen.append(len(grid_thw)), forward(values, grid_thw, **kw))[1],
    )
    base.logps(_prompts(base, [(56, 56), (80, 40), (56, 56)]), *_answers(base, [[3] * 4] * 3))
    assert seen == [2]


def test_layers_read_no_padding_and_nothing_twice(base):
    widths = []
    hook = base.model.model.language_model.layers[0].register_forward_pre_hook(
        lambda layer, args, kwargs: widths.append(
            (kwargs.get("hidden_states", *args).shape, kwargs["past_key_values"])
        ),
        with_kwargs=True,
    )
    prompts = _prompts(base, [(56, 56), None])
    base.logps(prompts, *_answers(base, [[3, 8], [1, 5]]))
    hook.remove()
    tokens = sum(map(base.prompt_tokens, prompts)) + 2 + 7 + 0 + 4
    assert widths == [((1, tokens, base.model.config.text_config.hidden_size), None)]


def test_no_tensor_of_all_pairs_of_tokens_is_made(base):
    prompts = _prompts(base, [None] * 6)
    ids, mask = _answers(base, [[40] * 16] * 6)
    tokens = sum(map(base.prompt_tokens, prompts)) + 6 * 16 * 39
    with Shapes() as shapes:
        logps, _ = base.logps(prompts, ids, mask)
        logps.sum().backward()
    base.zero_grad()
    assert 0 < shapes.largest < tokens**2 / 4


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_another_attention_takes_padded_rows_and_says_so_once(ragged, attention, caplog):
    hidden_states._warn_padded.cache_clear()
    expected, _ = ragged[0].logps(*ragged[1:])
    policy = Qwen2_5_VL(str(BASE), attn_implementation=attention)
    policy.load()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            logps, _ = policy.logps(*ragged[1:])
    torch.testing.assert_close(logps, expected, rtol=0, atol=1e-5)
    told = [record.getMessage() for record in caplog.records if record.name == "visplay.modules.policy.hidden_states"]
    assert told == [
        "groups are not packed into one row, training is slower: "
        f"attn_implementation is '{attention}', not 'grouped_sdpa'"
    ]


def test_a_family_that_cannot_be_packed_takes_padded_rows(ragged, caplog, monkeypatch):
    hidden_states._warn_padded.cache_clear()
    monkeypatch.setattr(Qwen2_5_VL, "packs", False)
    assert ragged[0].why_not_packed() == "Qwen2_5_VL does not say that it can be"
    _assert_equal(*ragged)


def test_a_model_with_windows_cannot_be_packed(fresh_base):
    assert fresh_base.why_not_packed() is None
    config = fresh_base.model.model.language_model.config
    config.layer_types, config.sliding_window = ["full_attention", "sliding_attention"], 100
    assert fresh_base.why_not_packed() == "layers attend within windows of 100 tokens"
    config.sliding_window = config.max_position_embeddings
    assert fresh_base.why_not_packed() is None
    config.layer_types = ["full_attention", "linear_attention"]
    assert fresh_base.why_not_packed() == "there are layers of linear_attention"
    config.layer_types, config.attention_dropout = None, 0.1
    assert fresh_base.why_not_packed() == "attention has dropout"


def test_the_patch_embedding_is_the_convolution_it_was(fresh_base):
    embedding = fresh_base.model.model.visual.patch_embed
    assert dict(embedding.named_parameters()).keys() == {"proj.weight"}
    patches = fresh_base.process_images([NOISE[80, 40]]).values.requires_grad_()
    ours = embedding(patches)
    shape = embedding.proj.weight.shape
    plain = nn.functional.conv3d(patches.view(-1, *shape[1:]), embedding.proj.weight, stride=shape[2:]).flatten(1)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    inputs = patches, embedding.proj.weight
    weights = torch.rand_like(plain)
    for one, other in zip(
        torch.autograd.grad((ours * weights).sum(), inputs),
        torch.autograd.grad((plain * weights).sum(), inputs),
        strict=True,
    ):
        assert (one - other).norm() <= 1e-5 * other.norm()
    assert type(fresh_base.frozen_copy().model.model.visual.patch_embed.proj) is type(embedding.proj)


def test_where_a_packed_row_has_what():
    packing = Packing([3, 2], [[1, 0], [2, 2]])
    assert (packing.prompt_tokens, packing.completion_tokens) == (5, 5)
    assert packing.within == Segments([3, 2, 1, 0, 2, 2], [3, 2, 1, 0, 2, 2], causal=True)
    assert packing.across == Segments([1, 4], [3, 2], causal=False)


def test_segments_that_are_causal_become_few_batches():
    segments = Segments([2, 0, 3], [2, 0, 3], causal=True)
    (batch,) = segments.batches
    assert batch.size == 2
    assert [sources.tolist() for sources in batch.sources] == [[0, 1, 0, 2, 3, 4]] * 2
    assert [targets.tolist() for targets in batch.targets] == [[0, 1, 5, 2, 3, 4]] * 2
    long = Segments([200, 5, 300, 0], [200, 5, 300, 0], causal=True)
    assert [(batch.size, len(batch.sources[0])) for batch in long.batches] == [(1, 5), (2, 600)]
    assert torch.cat([batch.targets[0] for batch in long.batches]).unique().tolist() == list(range(506))


def test_few_segments_on_a_prompt_are_one_batch_and_long_ones_are_alone():
    segments = Segments([2, 0, 5], [3, 4, 1], causal=False)
    (batch,) = segments.batches
    assert [index.tolist() for index in batch.sources] == [[0, 1, 0, 0, 0, 2, 3, 4, 5, 6], [0, 1, 2, 7, 7, 7]]
    assert [index.tolist() for index in batch.targets] == [[0, 1, 7, 7, 7, 2, 3, 4, 5, 6], [0, 1, 2, 7, 8, 8]]
    assert batch.mask.exp().flatten(1).tolist() == [[1, 1, 1], [1, 0, 0]]
    assert segments.unread == [slice(3, 7)]
    long = Segments([200, 2, 200], [300, 3, 300], causal=False)
    assert [(batch.size, batch.mask) for batch in long.batches] == [(1, None)] * 3
    assert all(torch.equal(*pair) for batch in long.batches for pair in zip(batch.sources, batch.targets, strict=True))
    assert Segments([0], [4], causal=False).batches == []


def test_completions_that_are_the_same_are_read_once(fresh_base):
    fresh_base.model.double()
    prompts = _prompts(fresh_base, [(56, 56), None])
    ids, mask = _answers(fresh_base, [[3, 5, 3, 5], [4, 4, 1, 4]])
    ids[0, 2], ids[0, 3], ids[1, 3] = ids[0, 0], ids[0, 1], ids[1, 1]
    ids[1, 0, :4], ids[1, 0, 3] = ids[1, 1, :4], ids[1, 1, 3] + 1  # the last token, which is not read, is another one
    rows = []
    layer = fresh_base.text_model.layers[0]
    with layer.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[1])):
        _assert_equal(fresh_base, prompts, ids, mask)
    assert rows[0] == sum(map(fresh_base.prompt_tokens, prompts)) + 2 + 4 + 3 + 3 + 0


@pytest.mark.parametrize("sizes", [[(56, 56), (56, 56)], [(56, 56), (80, 40), (80, 40), (30, 90)]])
def test_images_and_windows_of_one_length_are_one_call_of_the_kernel(fresh_base, sizes, monkeypatch):
    fresh_base.model.double()
    tower = fresh_base.model.model.visual
    tower.fullatt_block_indexes = [1]  # the first block attends within windows
    pixels = fresh_base.process_images([NOISE[size].rotate(90 * i) for i, size in enumerate(sizes)])
    kernel, calls = torch.nn.functional.scaled_dot_product_attention, []
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda query, *args, **kwargs: (calls.append(tuple(query.shape)), kernel(query, *args, **kwargs))[1],
    )
    ours = torch.cat(list(fresh_base.image_features(pixels)))
    assert max(Counter(calls).values()) <= len(tower.blocks)
    before = len(calls)
    for block in tower.blocks:
        block.attn.config._attn_implementation = "sdpa"
    plain = torch.cat(list(fresh_base.image_features(pixels)))
    assert len(calls) - before > before
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)


def test_at_most_five_frames_of_ours_lead_from_logps_to_the_kernel(ragged, monkeypatch):
    policy, *batch = ragged
    kernel, seen = attention._cpu_forward, []

    def noted(*arguments, **settings):
        frames = [frame for frame in traceback.extract_stack() if PACKAGE in Path(frame.filename).parents]
        seen.append([frame.name for frame in frames])
        return kernel(*arguments, **settings)

    monkeypatch.setattr(attention, "_cpu_forward", noted)
    policy.logps(*batch)
    assert seen
    assert all(names[0] == "logps" and len(names) <= 5 for names in seen)


def test_cumulative_lengths_for_a_ragged_kernel():
    segments = Segments([2, 0, 5], [3, 4, 1], causal=False)
    queries, keys = segments.cumulative(torch.device("cpu"))
    assert (queries.tolist(), keys.tolist()) == ([0, 2, 2, 7], [0, 3, 7, 8])
    assert queries.dtype == torch.int32
    assert segments.longest == (5, 4)
