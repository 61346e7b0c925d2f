import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import plain_image
from visplay.callbacks import TransformersRollout
from visplay.callbacks.engines.sampler import chunk_prompts
from visplay.modules.policy.decoding_cache import GroupedCache
from visplay.modules.policy.prefill import find_shared_prefixes
from visplay.prompts import ANSWER as LONG_ANSWER
from visplay.tiny import ANSWER
from visplay.types import Sampling

QUESTIONS = ["Is there a red circle?", "b2", "How many small blue triangles are there in row 3?", "x y"]


def _prompts(vlm):
    return [vlm.encode(f"p{i}", ANSWER, plain_image(40 * i), question=q) for i, q in enumerate(QUESTIONS)]


def _tokens(groups):
    return [[c.token_ids for c in group] for group in groups]


def test_samples_do_not_depend_on_order_or_batching(base):
    prompts, sampling = _prompts(base), Sampling(3, 12, seed=5)
    expected = _tokens(TransformersRollout().generate(base, prompts, sampling))
    assert _tokens(TransformersRollout(max_sequences=1).generate(base, prompts, sampling)) == expected
    assert _tokens(TransformersRollout().generate(base, prompts[::-1], sampling))[::-1] == expected
    assert _tokens(TransformersRollout().generate(base, prompts[1:2], sampling)) == expected[1:2]
    assert _tokens(TransformersRollout().generate(base, prompts, Sampling(2, 12, seed=5))) == [g[:2] for g in expected]
    last = Sampling(1, 12, seed=5, first=2)
    assert _tokens(TransformersRollout().generate(base, prompts, last)) == [g[2:] for g in expected]
    assert _tokens(TransformersRollout().generate(base, prompts, Sampling(3, 12, seed=6))) != expected


def _about(vlm, images):
    """Prompts about images, each question about each, in turns; None is no image."""
    return [
        vlm.encode(f"{i}/{j}", LONG_ANSWER, image, question=question)
        for j, question in enumerate(QUESTIONS)
        for i, image in enumerate(images)
    ]


def test_prompts_about_one_image_sample_what_each_alone_does(base, monkeypatch):
    prompts, sampling = _about(base, [plain_image(40), None, plain_image(80, (30, 56))]), Sampling(3, 12, seed=5)
    alone = [group for p in prompts for group in TransformersRollout().generate(base, [p], sampling)]
    read, run = [], type(base).language_model

    def noted(self, embeddings, *rest):
        read.append(tuple(embeddings.shape[:2]))
        return run(self, embeddings, *rest)

    monkeypatch.setattr(type(base), "language_model", noted)
    together = TransformersRollout().generate(base, prompts, sampling)
    by_image = sorted(prompts, key=lambda p: p.key)
    prefixes = find_shared_prefixes(base, by_image)
    assert read[:2] == [(6, max(prefixes.tokens)), (12, prefixes.rest_tokens)]  # 2 images, 4 prompts without
    for again in (together, TransformersRollout(max_sequences=12).generate(base, prompts, sampling)):
        assert _tokens(again) == _tokens(alone)
        for mine, theirs in zip(again, alone, strict=True):
            for one, other in zip(mine, theirs, strict=True):
                torch.testing.assert_close(torch.tensor(one.logps), torch.tensor(other.logps), rtol=0, atol=1e-5)


def test_prompts_about_one_image_are_read_together_where_they_fit(base):
    prompts = _about(base, [plain_image(40), plain_image(80)])
    assert chunk_prompts(base, prompts, 8) == chunk_prompts(base, prompts, 5) == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert [len(chunk) for chunk in chunk_prompts(base, prompts, 3)] == [3, 1, 3, 1]
    unlike = _prompts(base)
    order = [row for chunk in chunk_prompts(base, unlike, 3) for row in chunk]
    assert order == sorted(range(4), key=lambda row: base.prompt_tokens(unlike[row]))


def _noted_reads(base, monkeypatch):
    """Numbers of prompts that are read at once, and of sequences that go on, in their order."""
    read, run = [], type(base).prefill
    monkeypatch.setattr(type(base), "prefill", lambda self, prompts: read.append(len(prompts)) or run(self, prompts))
    going_on, go_on = [], GroupedCache.read
    monkeypatch.setattr(GroupedCache, "read", lambda self, tokens: going_on.append(len(tokens)) or go_on(self, tokens))
    return read, going_on


def test_completions_that_end_make_room_for_the_next_prompts(base, monkeypatch):
    prompts = [base.encode(f"{i}", ANSWER, plain_image(10 * i), question=q) for i, q in enumerate(3 * QUESTIONS)]
    sampling = Sampling(3, 24, seed=2, temperature=1.5)
    alone = [group for p in prompts for group in TransformersRollout().generate(base, [p], sampling)]
    read, going_on = _noted_reads(base, monkeypatch)
    together = TransformersRollout(max_sequences=12).generate(base, prompts, sampling)
    assert _tokens(together) == _tokens(alone)
    assert read[0] == 4
    assert sum(read) == 12
    assert max(going_on) <= 12
    lengths = [len(c.token_ids) for group in together for c in group]
    assert sum(going_on) == sum(lengths) - len(lengths)  # each token is read once but the last, and nothing else is
    assert len(going_on) < sum(max(lengths[i : i + 12]) - 1 for i in range(0, 36, 12))


def test_greedy_and_sampled_completions_of_one_reading(base, monkeypatch):
    prompts = _prompts(base)
    ways = [
        Sampling(1, 12, temperature=0.0),
        Sampling(3, 8, seed=5, top_p=0.9),
        Sampling(2, 12, seed=5, temperature=2.0),
    ]
    apart = [TransformersRollout().generate(base, prompts, way) for way in ways]
    read, _ = _noted_reads(base, monkeypatch)
    together = TransformersRollout().generate_each(base, prompts, ways)
    assert read == [4]
    assert [_tokens(groups) for groups in together] == [_tokens(groups) for groups in apart]
    for mine, theirs in zip(together, apart, strict=True):
        for a, b in zip((c for g in mine for c in g), (c for g in theirs for c in g), strict=True):
            assert (a.text, a.finished) == (b.text, b.finished)
            torch.testing.assert_close(torch.tensor(a.logps), torch.tensor(b.logps), rtol=0, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 0.7])
def test_drafts_change_no_sample_but_the_passes(base, monkeypatch, temperature):
    prompts = _about(base, [plain_image(40), plain_image(80)])
    sampling = Sampling(6, 24, seed=5, temperature=temperature)
    expected = TransformersRollout().generate(base, prompts, sampling)
    _, passes = _noted_reads(base, monkeypatch)
    assert _tokens(TransformersRollout(max_sequences=96).generate(base, prompts, sampling)) == _tokens(expected)
    plain = len(passes)
    passes.clear()
    drafted = TransformersRollout(max_sequences=96, drafts=6).generate(base, prompts, sampling)
    assert _tokens(drafted) == _tokens(expected)
    assert len(passes) < plain
    for mine, theirs in zip(drafted, expected, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert a.finished == b.finished
            torch.testing.assert_close(torch.tensor(a.logps), torch.tensor(b.logps), rtol=0, atol=1e-4)


def test_a_family_that_is_not_packed_samples_the_same(base, monkeypatch):
    prompts, sampling = _about(base, [plain_image(40), plain_image(80)]), Sampling(3, 12, seed=5)
    expected = TransformersRollout(max_sequences=12).generate(base, prompts, sampling)
    monkeypatch.setattr(type(base), "packs", False)
    monkeypatch.setattr(GroupedCache, "read", None)
    assert _tokens(TransformersRollout(max_sequences=12).generate(base, prompts, sampling)) == _tokens(expected)


def test_reported_logps_are_those_of_the_training_forward(base):
    prompts = _prompts(base)
    groups = TransformersRollout().generate(
        base, prompts, Sampling(3, 12, seed=1, top_p=0.9, top_k=30, temperature=0.7)
    )
    for prompt, group in zip(prompts, groups, strict=True):
        for completion in group:
            ids = torch.tensor(completion.token_ids)[None, None]
            with torch.no_grad():
                logps, _ = base.logps([prompt], ids, torch.ones_like(ids, dtype=torch.bool), temperature=0.7)
            torch.testing.assert_close(logps[0, 0], torch.tensor(completion.logps), rtol=0, atol=1e-4)


def test_weights_cast_by_autocast_are_kept_within_a_batch_only(fresh_base):
    prompts, engine = _prompts(fresh_base), TransformersRollout()
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        for seed in range(2):
            groups = engine.generate(fresh_base, prompts, Sampling(2, 6, seed=seed))
            ids = torch.zeros(len(prompts), 2, 6, dtype=torch.long)
            mask = torch.zeros_like(ids, dtype=torch.bool)
            sampled = torch.zeros(ids.shape)
            for i, group in enumerate(groups):
                for j, c in enumerate(group):
                    length = len(c.token_ids)
                    ids[i, j, :length], mask[i, j, :length] = torch.tensor(c.token_ids), True
                    sampled[i, j, :length] = torch.tensor(c.logps)
            logps, _ = fresh_base.logps(prompts, ids, mask)
            assert float((logps.detach() - sampled)[mask].abs().mean()) < 0.02
            fresh_base.zero_grad()
            logps.sum().backward()
            assert all(weight.grad is not None for weight in fresh_base.parameters() if weight.requires_grad)
            with torch.no_grad():
                for weight in fresh_base.parameters():
                    weight.mul_(1.2)
            fresh_base.version += 1


@pytest.mark.parametrize("n", [1, 3, 12])
def test_half_precision_samples_with_the_log_probabilities_of_training(base, n):
    prompts = _about(base, [plain_image(40), plain_image(80)])
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False), torch.no_grad():
        groups = TransformersRollout(max_sequences=40).generate(base, prompts, Sampling(n, 12, seed=1))
        gaps = []
        for prompt, group in zip(prompts, groups, strict=True):
            for completion in group:
                ids = torch.tensor(completion.token_ids)[None, None]
                logps, _ = base.logps([prompt], ids, torch.ones_like(ids, dtype=torch.bool))
                gaps.append((logps[0, 0] - torch.tensor(completion.logps)).abs().mean())
    assert torch.stack(gaps).mean() < 0.02


def test_a_prompt_goes_when_the_last_of_its_completions_has_ended(base):
    cache = GroupedCache(base, 8)
    cache.add(base.prefill(_prompts(base))[1], 2)
    cache.read(torch.full((8, 1), 70))
    cache.advance(torch.ones(8, dtype=torch.long))
    cache.keep(torch.tensor([0, 1, 6, 3, 4]))
    assert [len(keys) for keys, _ in cache._prompts] == [4] * len(cache._prompts)
    cache.keep(torch.tensor([2, 1]))
    assert [len(keys) for keys, _ in cache._prompts] == [2] * len(cache._prompts)


class Casts(TorchDispatchMode):
    """Counts how often each of some tensors is cast."""

    def __init__(self, tensors):
        super().__init__()
        self.counts = dict.fromkeys((tensor.data_ptr() for tensor in tensors), 0)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default and args[0].data_ptr() in self.counts:
            self.counts[args[0].data_ptr()] += 1
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("frozen", [False, True])
def test_a_weight_is_cast_once_a_batch_whether_or_not_it_learns(fresh_base, frozen):
    fresh_base.requires_grad_(not frozen)
    layers = fresh_base.model.model.language_model.layers
    weights = [module.weight for module in layers.modules() if isinstance(module, torch.nn.Linear)]
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False), Casts(weights) as casts:
        TransformersRollout().generate(fresh_base, _prompts(fresh_base), Sampling(2, 6))
    assert set(casts.counts.values()) == {1}
    assert {weight.requires_grad for weight in fresh_base.parameters()} == {not frozen}


def test_greedy_equals_transformers_generate(base):
    prompts = _prompts(base)
    groups = TransformersRollout().generate(base, prompts, Sampling(1, 16, temperature=0.0))
    for prompt, group in zip(prompts, groups, strict=True):
        batch = base.collate([prompt])
        out = base.model.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.mask.long(),
            pixel_values=batch.pixels.values,
            image_grid_thw=batch.pixels.grids,
            mm_token_type_ids=(batch.input_ids == base.image_token_id).int(),
            do_sample=False,
            max_new_tokens=16,
            suppress_tokens=base.banned_token_ids.tolist(),
        )
        assert list(group[0].token_ids) == out[0, batch.input_ids.shape[1] :].tolist()


def test_a_sequence_ends_at_its_stop_token_or_is_cut_off(base):
    groups = TransformersRollout().generate(base, _prompts(base), Sampling(16, 24, seed=2, temperature=3.0))
    completions = [c for group in groups for c in group]
    assert any(c.finished for c in completions)
    assert any(not c.finished for c in completions)
    for c in completions:
        stops = [t in base.stop_token_ids for t in c.token_ids]
        assert stops[-1] == c.finished
        assert not any(stops[:-1])
        assert c.finished or len(c.token_ids) == 24
        assert not set(c.token_ids) & set(base.banned_token_ids.tolist())
        assert len(c.logps) == len(c.token_ids)


def test_a_policy_is_loaded_only_when_it_changed(base, monkeypatch):
    loads = []
    monkeypatch.setattr(
        TransformersRollout, "load_weights", lambda self, policy: loads.append((policy.name, policy.version))
    )
    engine, prompts = TransformersRollout(), _prompts(base)[:1]
    monkeypatch.setattr(base, "version", 0)
    engine.generate(base, prompts, Sampling(1, 2))
    engine.generate(base, prompts, Sampling(1, 2))
    base.version = 1
    engine.generate(base, prompts, Sampling(1, 2))
    assert loads == [(base.name, 0), (base.name, 1)]


def test_one_of_several_ranks_without_prompts_takes_part(base, monkeypatch):
    monkeypatch.setattr("visplay.callbacks.engines.engine.world_size", lambda: 2)
    engine = TransformersRollout()
    assert engine.generate(base, [], Sampling(1, 2)) == []
    assert engine.loaded == (base.name, base.version)


def test_bad_calls(base):
    engine, prompts = TransformersRollout(), _prompts(base)
    assert engine.generate(base, [], Sampling(1, 2)) == []
    with pytest.raises(ValueError, match=r"keys must differ, got \['p0'\] twice"):
        engine.generate(base, prompts[:1] * 2, Sampling(1, 2))
    with pytest.raises(ValueError, match="n=0 must be at least 1"):
        engine.generate(base, prompts, Sampling(0, 2))
    with pytest.raises(ValueError, match="max_new_tokens=1024 between 1 and the context of 1024"):
        engine.generate(base, prompts, Sampling(1, 1024))
    with pytest.raises(ValueError, match="max_sequences: 0"):
        TransformersRollout(0)
    with pytest.raises(ValueError, match="drafts: -1 must be at least 0"):
        TransformersRollout(drafts=-1)


def test_training_mode_and_gradients_are_left_as_they_were(base):
    base.train()
    TransformersRollout().generate(base, _prompts(base), Sampling(1, 2))
    assert base.training
    base.eval()
    assert torch.is_grad_enabled()
