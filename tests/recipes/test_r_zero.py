"""R-Zero, which asks without an image: its constants, its rewards by hand, and a run through the command line."""

import json
import math
import random
import sys

import pyarrow.parquet as pq
import pytest
import torch

from config_runs import config
from text_models import llama
from visplay.__main__ import main
from visplay.callbacks import SelfPlay
from visplay.callbacks.records.step_record import read_record
from visplay.cli import VisPlayCLI
from visplay.cli import run as run_command
from visplay.data.generated import read_examples
from visplay.modules import CausalLM, Qwen2_5_VL
from visplay.tiny import BASE
from visplay.types import UnlabeledImage

TEXTS = [["what is two plus two", "what is two plus two", None], ["how many primes are below ten", "why", None]]
CONFIDENCES = torch.tensor([[0.5, 0.9, 0.0], [1.0, 0.2, 0.0]])
VALID = torch.tensor([[True, True, False], [True, True, False]])


@pytest.fixture
def build(monkeypatch, tmp_path):
    """Build what configurations say, without running anything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["visplay"])
    monkeypatch.setattr(VisPlayCLI, "_run_subcommand", lambda self, subcommand: None)
    yield lambda *names: run_command(
        ["fit", *map(config, names), "--trainer.accelerator=cpu", "--trainer.precision=32-true"]
    )
    torch.use_deterministic_algorithms(False)


def paid(reward, texts, confidences, valid):
    redundancy = reward.redundancy_weight * reward.redundancy(texts)
    return reward.combine(valid, reward.difficulty(confidences), redundancy)


def test_constants(build):
    """Each is in the table of docs/method.md with its source."""
    built = build("r_zero")
    curation = next(each for each in built.trainer.callbacks if isinstance(each, SelfPlay)).curation
    challenger, solver = built.model.questioner, built.model.reasoner
    assert type(challenger.vlm) is CausalLM
    assert challenger.vlm.path == "Qwen/Qwen3-4B-Base"
    for role, steps, group, update in ((challenger, 5, 4, 16), (solver, 15, 5, 128)):
        c = role.config
        assert (c.steps, c.prompts_per_step, c.group_size, c.prompts_per_update) == (steps, 512, group, update)
        assert (c.learning_rate, c.weight_decay, c.kl_weight, c.kl_reference) == (1e-6, 1e-2, 1e-2, "phase_start")
        assert (c.temperature, c.top_p, c.top_k, c.max_new_tokens) == (1.0, 0.99, 0, 4096)
        assert c.start_from == "last_phase"
    assert (solver.voting.votes, solver.voting.top_k, solver.voting.top_p) == (10, 40, 1.0)
    assert (curation.voting.votes, curation.voting.top_k, curation.low, curation.high) == (9, 40, 0.3, 0.8)
    assert (curation.images, curation.questions_per_image, curation.top_p) == (8000, 1, 0.95)
    assert built.datamodule.image_source.count == 8000


def test_rewards_by_hand(build):
    """Of six questions two are one cluster and two do not parse; a share is of all six."""
    published, released = (build("r_zero", *more).model for more in ((), ("r_zero_released",)))
    expected = [[1.0 - 2 / 6, max(0.2 - 2 / 6, 0), 0.0], [max(0.0 - 1 / 6, 0), 0.4 - 1 / 6, 0.0]]
    found = paid(published.questioner.reward, TEXTS, CONFIDENCES, VALID)
    torch.testing.assert_close(found, torch.tensor(expected))
    expected = [[0.5 - 2 / 6, 0.1 - 2 / 6, -1.0], [0.0 - 1 / 6, 0.2 - 1 / 6, -1.0]]
    found = paid(released.questioner.reward, TEXTS, CONFIDENCES, VALID)
    torch.testing.assert_close(found, torch.tensor(expected))
    agrees, formatted = torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[True, False, True]])
    torch.testing.assert_close(published.reasoner.reward(agrees, formatted), torch.tensor([[1.0, 1.0, 0.0]]))
    torch.testing.assert_close(released.reasoner.reward(agrees, formatted), torch.tensor([[1.0, 0.9, 0.1]]))


@pytest.mark.parametrize("seed", range(5))
def test_rewards_are_those_of_plain_loops(build, seed):
    draw = random.Random(seed)
    asked = ["alpha beta gamma delta", "one two three four five", "left right up down in out", "red"]
    texts = [[draw.choice([*asked, None]) for _ in range(4)] for _ in range(6)]
    confidences = torch.tensor([[draw.randint(0, 10) / 10 for _ in range(4)] for _ in range(6)])
    valid = torch.tensor([[text is not None and draw.random() < 0.8 for text in group] for group in texts])
    published, released = (build("r_zero", *more).model.questioner for more in ((), ("r_zero_released",)))
    for n, group in enumerate(texts):
        for g, text in enumerate(group):
            c, ok = float(confidences[n, g]), bool(valid[n, g])
            share = 0.0 if text is None else sum(other == text for each in texts for other in each) / 24
            first = paid(published.reward, texts, confidences, valid)[n, g]
            assert math.isclose(first, max(1 - 2 * abs(c - 0.5) - share, 0) if ok else 0, abs_tol=1e-6)
            second = paid(released.reward, texts, confidences, valid)[n, g]
            assert math.isclose(second, (min(c, 1 - c) if ok else -1) - share, abs_tol=1e-6)


@pytest.mark.parametrize("family", [CausalLM, Qwen2_5_VL])
def test_an_iteration_through_the_command_line(family, tmp_path, monkeypatch):
    """A tiny Llama, or a VLM, and a scripted engine; neither the data set nor the record of a step has an image."""
    model = BASE if family is Qwen2_5_VL else tmp_path / "model"
    if family is CausalLM:
        llama(model)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["visplay"])
    small = [
        f"--model.vlm=visplay.modules.{family.__name__}",
        f"--model.vlm.path={model}",
        "--model.vlm.max_context_tokens=600",
        "--data.images.count=9",
        "--rollout={class_path: helpers.Scripted, init_args: {script: text_models.sums}}",
        "--trainer.accelerator=cpu",
        "--trainer.precision=32-true",
        "--self_play.iterations=1",
        "--self_play.curation.images=9",
        "--self_play.curation.questions_per_image=3",
        "--record.steps=all",
        f"--trainer.default_root_dir={tmp_path / 'root'}",
    ]
    for role in ("questioner", "reasoner"):
        grpo = f"--model.{role}.grpo"
        small += [f"{grpo}.steps=1", f"{grpo}.prompts_per_step=4", f"{grpo}.prompts_per_update=2"]
        small += [f"{grpo}.max_new_tokens=48", f"{grpo}.mismatch.stop=false"]
    main(["fit", config("r_zero"), *small])
    run = tmp_path / "root" / "r_zero" / "version_0"
    examples = read_examples(run / "generated" / "iteration-1.parquet")
    assert {example.image for example in examples} == {None}
    assert {example.images for example in examples} == {()}
    for example in examples:
        first, _, second = example.problem.removeprefix("What is ").rstrip("?").partition(" + ")
        assert example.answer == str(int(first) + int(second))
        assert example.score == 6 / 9
    (record,) = json.loads((run / "manifest.json").read_text()).values()
    assert record["statistics"]["asked"] == 27
    assert record["statistics"]["kept"] == len(examples) == 18
    assert pq.read_table(run / "generated" / "iteration-1.parquet")["images"].null_count == 18
    asked, answered = (read_record(run / "records" / f"phase-0{n}-step-0001").trace.items for n in range(2))
    assert {(type(item), item.image) for items in asked for item in items} == {(UnlabeledImage, None)}
    assert all(item in examples for items in answered for item in items)
    main(["replay", str(run / "records" / "phase-01-step-0001")])
