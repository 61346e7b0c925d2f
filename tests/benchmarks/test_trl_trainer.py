from __future__ import annotations

from pathlib import Path

import pytest
import torch

from visplay.tiny import ANSWER, BASE

pytest.importorskip("trl", reason="TRL is not installed; it comes with the extra bench")

from benchmarks.trl_trainer import TRLSettings, TRLStep
from helpers import plain_image

QUESTIONS = ("Where are the 2 red circles?", "How many circles are there in all?")
GROUP, TOKENS = 2, 6


@pytest.fixture
def images():
    return [plain_image(number) for number in (3, 4000)]


@pytest.fixture
def step(fresh_base, images, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    never = (*fresh_base.banned_token_ids.tolist(), *fresh_base.stop_token_ids)
    settings = TRLSettings(GROUP, TOKENS, batch=2, precision="float32", suppressed=never)
    return TRLStep(Path(BASE), tmp_path, QUESTIONS, images, settings)


def test_trl_reads_our_prompts_and_gives_the_same_log_probabilities(step, fresh_base, images):
    prompts = [
        fresh_base.encode(question, ANSWER, image, question=question)
        for question, image in zip(QUESTIONS, images, strict=True)
    ]
    inputs = step.rollout()
    batch = fresh_base.collate(prompts)
    ids = inputs["completion_ids"]
    suppressed = step.trainer.generation_kwargs["suppress_tokens"]

    torch.testing.assert_close(inputs["prompt_ids"], batch.input_ids.repeat_interleave(GROUP, 0))
    torch.testing.assert_close(inputs["prompt_mask"].bool(), batch.mask.repeat_interleave(GROUP, 0))
    assert ids.shape == (len(prompts) * GROUP, TOKENS)
    assert bool(inputs["completion_mask"].all())
    assert not torch.isin(ids, torch.tensor(suppressed)).any()

    pixels = {name: inputs[name] for name in ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")}
    with torch.no_grad():
        theirs, entropies, _ = step.trainer._get_per_token_logps_and_entropies(
            step.trainer.model,
            torch.cat([inputs["prompt_ids"], ids], 1),
            torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1),
            TOKENS,
            compute_entropy=True,
            **pixels,
        )
        fresh_base.banned_token_ids = fresh_base.banned_token_ids[:0]  # TRL's softmax is over the whole vocabulary
        grouped = ids.view(len(prompts), GROUP, TOKENS)
        ours = fresh_base.logps(prompts, grouped, torch.ones_like(grouped, dtype=torch.bool))
    torch.testing.assert_close(theirs.view_as(grouped), ours[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(entropies.view_as(grouped), ours[1], rtol=0, atol=1e-4)


def test_update_and_step_are_one_optimisation_step_each_and_only_step_samples(step, monkeypatch):
    trainer, weight = step.trainer, step.trainer.model.lm_head.weight
    inputs, before = step.rollout(), weight.detach().clone()
    assert trainer.state.global_step == 0
    sampled = []
    generate = trainer.model.generate
    monkeypatch.setattr(trainer.model, "generate", lambda *a, **k: sampled.append(1) or generate(*a, **k))

    step.update(inputs)
    assert (trainer.state.global_step, trainer._step, len(sampled)) == (1, 2, 0)
    first = weight.detach().clone()
    assert 0 < float((first - before).abs().max()) < 2e-6  # AdamW's first step is the learning rate

    step.step()
    assert (trainer.state.global_step, trainer._step, len(sampled)) == (2, 4, 1)
    assert not torch.equal(weight, first)


def test_a_micro_batch_must_divide_the_completions(images, tmp_path):
    with pytest.raises(ValueError, match="batch: 3 must divide the 4"):
        TRLStep(Path(BASE), tmp_path, QUESTIONS, images, TRLSettings(GROUP, TOKENS, batch=3))
