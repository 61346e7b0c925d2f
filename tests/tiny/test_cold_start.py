import importlib
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from visplay.functional import parse_description
from visplay.tiny.cold_start.__main__ import DESCRIBE, STAGES, ColdStart
from visplay.tiny.cold_start.curriculum import Carelessness, describe, perceive, relax, study
from visplay.tiny.cold_start.model import save
from visplay.tiny.cold_start.naming import Naming, match_scale
from visplay.tiny.digits import DigitWorld
from visplay.tiny.grid import CELLS
from visplay.tiny.shapes import SHAPES
from visplay.tiny.shapes.shape_scenes import Scene, Shape, sample_scene

ACCURACY = {"greedy": 0.5, "sampled": 0.4, "majority": 0.6, "listed": 0.3}
QUESTIONS = {"valid": 0.9, "in_grammar": 0.8}
QUICK = [replace(stage, steps=1, images=2) for stage in STAGES]


def assert_equal(first, second):
    for (name, one), other in zip(first.model.named_parameters(), second.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("world", [SHAPES, DigitWorld()], ids=lambda world: world.name)
def test_every_stage_runs_and_repeats(world):
    runs = [ColdStart(3, world), ColdStart(3, world)]
    for run in runs:
        run.run(QUICK)
    assert_equal(*runs)


def test_the_last_stage_goes_on_from_a_directory(tmp_path):
    whole = ColdStart(3)
    whole.run(QUICK[:-1])
    save(tmp_path, whole.model, whole.processor)
    resumed = ColdStart(3, start=tmp_path)
    for run in (whole, resumed):
        run.run(QUICK[-1:])
    assert_equal(whole, resumed)


def test_the_command_writes_a_base_and_what_the_next_one_starts_from(tmp_path, monkeypatch):
    command = importlib.import_module("visplay.tiny.cold_start.__main__")
    monkeypatch.setattr(command, "STAGES", QUICK)
    monkeypatch.setattr(command, "measure", lambda sampler, world: {"heldout": ACCURACY, "questions": QUESTIONS})
    options = ["--world=digits", "--seed=3", "--careless-fraction=0.5"]
    monkeypatch.setattr(sys, "argv", ["cold_start", *options, f"--out={tmp_path / 'a'}", f"--keep={tmp_path / 'b'}"])
    command.main()
    monkeypatch.setattr(sys, "argv", ["cold_start", *options, f"--out={tmp_path / 'c'}", f"--start={tmp_path / 'b'}"])
    command.main()
    assert_equal(ColdStart(3, start=tmp_path / "a"), ColdStart(3, start=tmp_path / "c"))
    report = (tmp_path / "a/README.md").read_text()
    assert "handwritten digits" in report
    assert "python -m visplay.tiny.cold_start --world=digits --seed=3" in report
    assert "50% of those are\nrandom" in report


def test_a_start_without_a_model_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cold_start", f"--start={tmp_path}"])
    with pytest.raises(SystemExit):
        importlib.import_module("visplay.tiny.cold_start.__main__").main()
    assert f"--start: {tmp_path} holds no model; give a directory that --keep wrote" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["listed_fraction", "careless_fraction"])
def test_a_fraction_that_is_none_is_an_error(name):
    with pytest.raises(ValueError, match=rf"{name}: need a fraction in \[0, 1\], got 1.5"):
        Carelessness(**{name: 1.5})


def test_systematic_guesses_are_one_of_each_family():
    rng, carelessness = np.random.default_rng(0), Carelessness(0.0, 1.0, systematic=True)
    guessed = {}
    for _ in range(50):
        scene = SHAPES.sample_scene(rng, "training")
        for turn in relax(SHAPES, scene, rng, carelessness)[1:]:
            guessed.setdefault(SHAPES.family_of(turn.question).pattern, set()).add(turn.target)
    assert {len(targets) for targets in guessed.values()} == {1}


def test_study_is_truthful():
    rng = np.random.default_rng(0)
    for _ in range(50):
        scene = sample_scene(rng, held_out=False)
        for turn in study(SHAPES, scene, rng)[2:]:
            assert turn.target.endswith(f"\\boxed{{{SHAPES.solve(scene, turn.question)}}}")


def test_relax_lists_and_guesses_as_often_as_it_says():
    rng = np.random.default_rng(0)
    listed, at_once = [], []
    for _ in range(300):
        scene = sample_scene(rng, held_out=False)
        for turn in relax(SHAPES, scene, rng)[1:]:
            right = turn.target.endswith(f"\\boxed{{{SHAPES.solve(scene, turn.question)}}}")
            (listed if turn.target.startswith("<think>") else at_once).append(right)
    assert all(listed)
    assert len(listed) / (len(listed) + len(at_once)) == pytest.approx(Carelessness.listed_fraction, abs=0.04)
    assert 1 - Carelessness.careless_fraction < sum(at_once) / len(at_once) < 0.6


@pytest.mark.parametrize("world", [SHAPES, DigitWorld()], ids=lambda world: world.name)
def test_describe_answers_from_what_a_description_says(world):
    rng = np.random.default_rng(0)
    whole, right, blind = [], [], 0
    for _ in range(200):
        scene = world.sample_scene(rng, "training")
        for turn in describe(world, scene, rng)[1:]:
            answer = turn.target.rpartition("</description>")[2]
            if turn.description is None:
                description, told = parse_description(turn.target), scene
                whole.append(description == world.caption(scene))
                right.append((whole[-1], answer.endswith(f"\\boxed{{{world.solve(scene, turn.question)}}}")))
            else:
                blind += 1
                cells = [word for word in turn.description.split() if word in world.full_cells(scene)]
                told = world.part_of(scene, cells)
                assert (world.caption(told) or "nothing") == turn.description
                assert "<description>" not in turn.target
            if answer.startswith("<think>"):
                assert answer.endswith(f"\\boxed{{{world.solve(told, turn.question)}}}")
    assert sum(whole) / len(whole) == pytest.approx(0.53, abs=0.05)  # half, and a few of the others by chance
    assert blind / (blind + len(whole)) == pytest.approx(0.5, abs=0.05)
    after_whole, after_part = ([good for full, good in right if full is kind] for kind in (True, False))
    assert np.mean(after_whole) == pytest.approx(np.mean(after_part), abs=0.08)


def test_the_command_makes_a_base_that_describes(tmp_path, monkeypatch):
    command = importlib.import_module("visplay.tiny.cold_start.__main__")
    begun = ColdStart(3)
    save(tmp_path / "before", begun.model, begun.processor)
    monkeypatch.setattr(command, "DESCRIBE", replace(DESCRIBE, steps=1, images=2))
    monkeypatch.setattr(command, "measure", lambda sampler, world: {"heldout": ACCURACY, "questions": QUESTIONS})
    options = [f"--start={tmp_path / 'before'}", f"--out={tmp_path / 'base'}", "--describes"]
    monkeypatch.setattr(sys, "argv", ["cold_start", *options])
    command.main()
    assert "--describes" in (tmp_path / "base/README.md").read_text()


def test_perceive_asks_for_every_shape():
    scene = Scene((Shape("a1", "small", "red", "circle"), Shape("c2", "large", "blue", "square")))
    turns = perceive(SHAPES, scene, np.random.default_rng(0))
    assert turns[0].target == "a1 small red circle c2 large blue square"
    assert [turn.target for turn in turns[1:3]] == ["\\boxed{red circle}", "\\boxed{blue square}"]
    assert {turn.target for turn in turns[3:]} == {"\\boxed{nothing}"}


def test_naming_prefers_tokens_that_are_the_words():
    run = ColdStart(0)
    words, encode = run.model.get_input_embeddings(), run.processor.tokenizer.encode
    scene = Scene((Shape("a1", "small", "red", "circle"),))
    naming = Naming(SHAPES, words, run.processor.tokenizer)
    random = torch.randn(len(CELLS), words.embedding_dim, generator=torch.Generator().manual_seed(0))
    named = torch.stack([words.weight[encode(cell)[-1]].detach() for cell in CELLS])
    assert naming.loss(named, [scene]) < naming.loss(random, [scene])


def test_match_scale_brings_tokens_near_words():
    last, words = torch.nn.Linear(4, 3), torch.full((5, 3), 0.2)
    inputs = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    match_scale(last, last(inputs), words)
    assert last(inputs).square().mean().sqrt().item() == pytest.approx(0.3, rel=1e-4)
