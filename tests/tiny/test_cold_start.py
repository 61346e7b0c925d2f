from dataclasses import replace

import numpy as np
import pytest
import torch

from visplay.tiny.cold_start.__main__ import STAGES, ColdStart
from visplay.tiny.cold_start.curriculum import CARELESS_FRACTION, LISTED_FRACTION, perceive, relax, study
from visplay.tiny.cold_start.naming import Naming, match_scale
from visplay.tiny.questions import solve
from visplay.tiny.world import CELLS, Scene, Shape, sample_scene


def test_every_stage_runs_and_repeats():
    stages = [replace(stage, steps=1, images=2) for stage in STAGES]
    runs = [ColdStart(3), ColdStart(3)]
    for run in runs:
        run.run(stages)
    for (name, first), second in zip(runs[0].model.named_parameters(), runs[1].model.parameters(), strict=True):
        torch.testing.assert_close(first, second, msg=name)


def test_study_is_truthful():
    rng = np.random.default_rng(0)
    for _ in range(50):
        scene = sample_scene(rng, held_out=False)
        for turn in study(scene, rng)[2:]:
            assert turn.target.endswith(f"\\boxed{{{solve(scene, turn.question)}}}")


def test_relax_lists_and_guesses_as_often_as_it_says():
    rng = np.random.default_rng(0)
    listed, at_once = [], []
    for _ in range(300):
        scene = sample_scene(rng, held_out=False)
        for turn in relax(scene, rng)[1:]:
            right = turn.target.endswith(f"\\boxed{{{solve(scene, turn.question)}}}")
            (listed if turn.target.startswith("<think>") else at_once).append(right)
    assert all(listed)
    assert len(listed) / (len(listed) + len(at_once)) == pytest.approx(LISTED_FRACTION, abs=0.04)
    assert 1 - CARELESS_FRACTION < sum(at_once) / len(at_once) < 0.6


def test_perceive_asks_for_every_shape():
    scene = Scene((Shape("a1", "small", "red", "circle"), Shape("c2", "large", "blue", "square")))
    turns = perceive(scene, np.random.default_rng(0))
    assert turns[0].target == "a1 small red circle c2 large blue square"
    assert [turn.target for turn in turns[1:3]] == ["\\boxed{red circle}", "\\boxed{blue square}"]
    assert {turn.target for turn in turns[3:]} == {"\\boxed{nothing}"}


def test_naming_prefers_tokens_that_are_the_words():
    run = ColdStart(0)
    words, encode = run.model.get_input_embeddings(), run.processor.tokenizer.encode
    scene = Scene((Shape("a1", "small", "red", "circle"),))
    naming = Naming(words, run.processor.tokenizer)
    random = torch.randn(len(CELLS), words.embedding_dim, generator=torch.Generator().manual_seed(0))
    named = torch.stack([words.weight[encode(cell)[-1]].detach() for cell in CELLS])
    assert naming.loss(named, [scene]) < naming.loss(random, [scene])


def test_match_scale_brings_tokens_near_words():
    last, words = torch.nn.Linear(4, 3), torch.full((5, 3), 0.2)
    inputs = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    match_scale(last, last(inputs), words)
    assert last(inputs).square().mean().sqrt().item() == pytest.approx(0.3, rel=1e-4)
