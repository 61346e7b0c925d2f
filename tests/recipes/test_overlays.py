"""Every recipe is built over the small world and over a model, and runs one iteration of the former."""

import ast
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision.transforms import ColorJitter

import visplay.recipes
from config_runs import DIRECTORY, config, shrink
from visplay.__main__ import main
from visplay.callbacks import AdaptiveKL, CalibratedAccuracy, SelfPlay, Teacher
from visplay.cli import VisPlayCLI
from visplay.cli import run as run_command
from visplay.functional import (
    GaussianWeights,
    WeakConsensus,
    agreement_rewards,
    batch_redundancy,
    centred_advantages,
    difficulty,
    group_advantages,
    group_redundancy,
    questioner_rewards,
    signed_questioner_rewards,
)
from visplay.modules import SecondView
from visplay.recipes.after_duel import Challenger, Duel, doubt
from visplay.recipes.evolmm import EntropyBandPass, SoftAgreement
from visplay.recipes.restrain import WeightedLabels, unchanged
from visplay.recipes.v_zero import dual_track

RECIPES = sorted(path.stem for path in (DIRECTORY / "recipes").glob("*.yaml"))

SCRIPTED = {"after_duel": "the embedded base makes no claims; test_after_duel.py runs it with a scripted engine"}
SMALL = ["--self_play.curation.low=0", "--self_play.curation.high=1"]
"""Whatever the recipe's band, a few questions are kept."""


def _first(callbacks, kind):
    return next(callback for callback in callbacks if isinstance(callback, kind))


@pytest.fixture(scope="module")
def known():
    """What was built, by the base and the recipes; nothing changes it."""
    return {}


@pytest.fixture
def build(monkeypatch, tmp_path, known):
    """Build what a recipe says over a base, without running anything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["visplay"])
    monkeypatch.setattr(VisPlayCLI, "_run_subcommand", lambda self, subcommand: None)
    files = {"tiny": config("tiny"), "3b": config("qwen2_5_vl_3b")}

    def build(base, *recipes):
        if (base, recipes) not in known:
            overlays = [config(f"recipes/{recipe}") for recipe in recipes]
            known[base, recipes] = run_command(["fit", files[base], *overlays, "--trainer.accelerator=cpu"])
        built = known[base, recipes]
        return built.model, _first(built.trainer.callbacks, SelfPlay).curation, built.trainer.callbacks

    yield build
    torch.use_deterministic_algorithms(False)


TEXTS = [["how many", "how many", "what colour", "which one is left of it"], ["how many", "where", "who", None]]
CONFIDENCES = [[0.6, 0.6, 0.9, 1.0], [0.5, 0.7, 0.0, 0.0]]
VALID = [[True, True, True, True], [True, True, False, False]]
"""Of two images; one question of the second has no valid vote, one did not parse."""


def _paid(reward):
    parts = reward.difficulty(torch.tensor(CONFIDENCES)), reward.redundancy_weight * reward.redundancy(TEXTS)
    return reward.combine(torch.tensor(VALID), *parts)


@pytest.fixture(params=["tiny", "3b"])
def base(request):
    return request.param


def _code_lines(path):
    """Lines of a file that are neither blank, nor a comment, nor of a docstring."""
    text = path.read_text()
    nodes = [n for n in ast.walk(ast.parse(text)) if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef))]
    docs = [node.body[0] for node in nodes if ast.get_docstring(node) is not None]
    left_out = {line for doc in docs for line in range(doc.lineno, doc.end_lineno + 1)}
    lines = [line.strip() for number, line in enumerate(text.splitlines(), start=1) if number not in left_out]
    return sum(bool(line) and not line.startswith("#") for line in lines)


def test_a_recipe_is_an_overlay_and_at_most_one_short_file():
    files = {path.stem: _code_lines(path) for path in Path(visplay.recipes.__file__).parent.glob("[a-z]*.py")}
    assert files.keys() == {"after_duel", "evolmm", "restrain", "v_zero"}
    assert files.keys() < {*RECIPES}
    assert max(files.values()) <= 40


def test_holds(build, base):
    model, curation, callbacks = build(base, "holds")
    plain, _, _ = build(base)
    assert model.questioner.config == replace(plain.questioner.config, start_from="base")
    assert model.reasoner.config == replace(plain.reasoner.config, learning_rate_decay=0.5)
    assert (curation.low, curation.high, curation.second_view) == (0.0, 1.0, SecondView("base"))
    assert [*curation.gates] == [CalibratedAccuracy(0.75)]
    assert _first(callbacks, SelfPlay).replay is None


@pytest.mark.parametrize("recipe", sorted({*RECIPES} - {"holds"}))
def test_a_published_recipe_takes_nothing_of_ours_over(build, base, recipe):
    model, curation, callbacks = build(base, "holds", recipe)
    without, expected, _ = build(base, recipe)
    for name, role in without.roles.items():
        assert model.roles[name].config == role.config
    assert [*curation.gates] == [*expected.gates]
    assert repr(curation.second_view) == repr(expected.second_view)  # two transforms of an image are never equal
    assert (curation.low, curation.high) == (expected.low, expected.high)
    assert _first(callbacks, SelfPlay).replay is None


def test_v_zero(build, base):
    model, curation, _ = build(base, "v_zero")
    reward, voting = model.questioner.reward, model.reasoner.voting
    assert (reward.judge, reward.redundancy_weight, reward.combine) == (dual_track, 0.0, signed_questioner_rewards)
    assert "answer" in model.questioner.format.require
    judged, valid = torch.tensor([[0.25, 0.4]]), torch.tensor([[True, False]])
    assert reward.combine(valid, judged, torch.zeros(1, 2)).tolist() == [[0.25, -1.0]]
    assert (voting.votes, voting.count_unparsed, voting.min_parsed_fraction, voting.ties) == (10, True, 0.0, "draw")
    assert (curation.low, curation.high) == (0.3, 0.8)


def test_evolmm(build, base):
    model, curation, callbacks = build(base, "evolmm")
    assert model.questioner.reward.judge == EntropyBandPass(centre=0.9, width=0.35)
    assert model.reasoner.group_reward == SoftAgreement(exponent=0.7, length_weight=0.1, target_words=6)
    assert (model.reasoner.voting.votes, model.reasoner.config.group_size, model.reasoner.voting.ties) == (5, 5, "draw")
    assert (curation.low, curation.high) == (0, 1)
    kl = {(role.config.kl_weight, role.config.kl_reference) for role in model.roles.values()}
    assert kl == {(1e-3, "base")}
    assert {role.config.advantage for role in model.roles.values()} == {centred_advantages}
    adaptive = _first(callbacks, AdaptiveKL)
    assert (adaptive.target, adaptive.rate) == (0.02, 0.1)


def test_r_zero(build, base):
    model, curation, _ = build(base, "r_zero")
    reward = model.questioner.reward
    assert (reward.difficulty, reward.redundancy, reward.redundancy_weight) == (difficulty, batch_redundancy, 1.0)
    assert (reward.combine, reward.judge) == (questioner_rewards, None)
    assert (model.reasoner.voting.votes, curation.low, curation.high) == (10, 0.3, 0.8)
    assert model.questioner.vlm is not model.reasoner.vlm
    # 1 - 2|c - 1/2| less the fraction of the eight that ask alike: three "how many", the others once
    expected = [[0.8 - 3 / 8, 0.8 - 3 / 8, 0.2 - 1 / 8, 0.0], [1.0 - 3 / 8, 0.6 - 1 / 8, 0.0, 0.0]]
    torch.testing.assert_close(_paid(reward), torch.tensor(expected))


def test_visplay(build, base):
    """Whatever the base says, what was published is what the classes default to."""
    model, curation, _ = build(base, "visplay")
    reward = model.questioner.reward
    assert (reward.difficulty, reward.redundancy, reward.redundancy_weight) == (difficulty, group_redundancy, 1.0)
    assert (reward.combine, model.reasoner.reward) == (questioner_rewards, agreement_rewards)
    assert (model.reasoner.voting.votes, curation.low, curation.high) == (10, 0.25, 0.75)
    # of the four of an image two ask alike, or none
    expected = [[0.8 - 1 / 2, 0.8 - 1 / 2, 0.0, 0.0], [1.0 - 1 / 4, 0.6 - 1 / 4, 0.0, 0.0]]
    torch.testing.assert_close(_paid(reward), torch.tensor(expected))


def test_self_harmony(build, base):
    model, curation, _ = build(base, "self_harmony")
    view = curation.second_view
    assert (view.voter, view.label, view.voting) == ("reasoner", "harmonic", None)
    assert isinstance(view.image, ColorJitter)
    assert (curation.low, curation.high, list(curation.gates)) == (0, 1, [])
    assert (model.reasoner.reward, model.reasoner.group_reward) == (agreement_rewards, None)


def test_restrain(build, base):
    model, curation, callbacks = build(base, "restrain")
    reasoner = model.reasoner
    assert reasoner.group_reward == WeightedLabels(centre=1.0, width=0.5)
    assert reasoner.negatives == WeakConsensus(least=0.25, penalty=1.0)
    assert (reasoner.config.advantage, reasoner.weight) == (unchanged, GaussianWeights(centre=1.0, width=0.5))
    teacher = _first(callbacks, Teacher)
    assert (teacher.rate, list(teacher.votes)) == (0.0, ["labels"])
    assert (curation.low, curation.high, list(curation.gates)) == (0, 1, [])


def test_after_duel(build, base):
    model, curation, _ = build(base, "after_duel")
    assert (type(model), type(model.questioner)) == (Duel, Challenger)
    steps = {"tiny": (10, 20), "3b": (40, 40)}[base]  # what the base says of them stays
    assert (model.questioner.config.steps, model.reasoner.config.steps) == steps
    assert (model.questioner.reward.judge, model.questioner.format.kinds) == (doubt, None)
    assert (model.reasoner.voting.votes, model.reasoner.voting.ties) == (3, "draw")
    assert (curation.low, curation.high, curation.second_view) == (0, 1, None)


@pytest.mark.parametrize("recipe", ["evolmm", "restrain"])
def test_what_was_published_undoes_whatever_the_base_says(build, recipe):
    (model, curation, callbacks), (plain, expected, _) = build("tiny", recipe, "visplay"), build("tiny", "visplay")
    assert model.questioner.reward == plain.questioner.reward
    assert (model.reasoner.reward, model.reasoner.group_reward) == (plain.reasoner.reward, None)
    assert model.reasoner.negatives is None
    assert (model.reasoner.weight, model.reasoner.voting, curation) == (None, plain.reasoner.voting, expected)
    assert [role.config.advantage for role in model.roles.values()] == [group_advantages] * 2
    assert not any(isinstance(callback, Teacher) for callback in callbacks)


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe not in SCRIPTED])
def test_a_recipe_runs(recipe, tmp_path, monkeypatch):
    """One iteration of one step each: both roles learn, and what is logged is a number."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["visplay"])
    made = []
    run = VisPlayCLI._run_subcommand
    monkeypatch.setattr(VisPlayCLI, "_run_subcommand", lambda cli, subcommand: (made.append(cli), run(cli, subcommand)))
    small = [*SMALL, f"--trainer.default_root_dir={tmp_path / 'root'}"]
    main(["fit", config("tiny"), shrink("tiny", tmp_path), config(f"recipes/{recipe}"), *small])
    torch.use_deterministic_algorithms(False)
    (cli,) = made
    anew = [role.config.start_from == "base" for role in cli.model.roles.values()]
    assert [role.vlm.version for role in cli.model.roles.values()] == [2 + each for each in anew]  # two updates each
    assert _first(cli.trainer.callbacks, SelfPlay).statistics["kept"] > 0
    assert all(math.isfinite(float(value)) for value in cli.trainer.logged_metrics.values())
