"""Vision-SR1: its constants, its reward worked out by hand and by plain loops, and runs through the command line."""

import random
import sys

import pytest
import torch

from config_runs import config, shrink
from examples.study.plan import read_study
from examples.vision_sr1 import descriptions
from helpers import Scripted, plain_image
from two_ranks import ROOT
from visplay.__main__ import main
from visplay.benchmark_answers import Answer, AnsweredItem, BatchAnswers
from visplay.cli import VisPlayCLI
from visplay.cli import run as run_command
from visplay.clock import Clock
from visplay.evaluation import AnswerStore
from visplay.functional import formatted_agreement_rewards, has_description, parse_description
from visplay.modules import Describer, GRPOConfig
from visplay.modules.policy.weights.model_source import ModelSource
from visplay.prompts import DESCRIBE, FROM_DESCRIPTION
from visplay.tiny import ANSWER
from visplay.tiny import FROM_DESCRIPTION as FROM_DESCRIPTION_HERE
from visplay.tiny.splits import heldout_caption
from visplay.types import Example

FORMS = {  # text -> description, and whether it has the form
    r"<description>a dot</description><think>one</think>\boxed{1}": ("a dot", True),
    "\n< description >\n a\ndot \n</ description > <think>one</think>\n\\boxed{1} ": (None, True),
    r"<description>a dot</description> so <think>one</think>\boxed{1}": ("a dot", False),
    r"<description>a dot</description><think>one</think> It is \boxed{1}": ("a dot", False),
    r"<description>a dot</description>\boxed{1}": ("a dot", False),
    r"<think>one</think><description>a dot</description>\boxed{1}": ("a dot", False),
    r"<description> </description><think>one</think>\boxed{1}": (None, False),
    r"<description>a dot<think>one</think>\boxed{1}": (None, False),
    r"<think>one</think>\boxed{1}": (None, False),
    "": (None, False),
}


@pytest.mark.parametrize("text", FORMS)
def test_forms(text):
    assert (parse_description(text), has_description(text)) == FORMS[text]


@pytest.fixture
def built(monkeypatch, tmp_path):
    """What a configuration says, without running anything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["visplay"])
    monkeypatch.setattr(VisPlayCLI, "_run_subcommand", lambda self, subcommand: None)
    plain = ["--trainer.accelerator=cpu", "--trainer.precision=32-true"]
    yield lambda *names: run_command(["fit", *map(config, names), *plain])
    torch.use_deterministic_algorithms(False)


def test_constants(built):
    """Each is in the table of docs/method.md with its source."""
    role = built("vision_sr1").model
    assert type(role) is Describer
    c = role.config
    assert (c.steps, c.prompts_per_step, c.prompts_per_update, c.group_size) == (91, 512, 128, 8)
    assert (c.learning_rate, c.weight_decay, c.kl_weight, c.top_p, c.temperature) == (1e-6, 1e-2, 1e-2, 0.99, 1.0)
    assert c.max_new_tokens == 2048
    assert (role.reward, role.description_weight) == (formatted_agreement_rewards, 1.0)
    assert (role.template, role.from_description) == (DESCRIBE, FROM_DESCRIPTION)
    silver = built("qwen2_5_vl_3b", "vision_sr1_silver").model.reasoner
    assert (type(silver), silver.config.steps, silver.voting.votes) == (Describer, 40, 10)


SAID = {  # of the image: what is said, whether it is right, and what its description alone leads to
    "all": (r"<description>4 dots</description><think>four</think>\boxed{4}", 1, 1),
    "blind": (r"<description>some dots</description><think>four</think>\boxed{4}", 1, 0),
    "wrong": (r"<description>4 dots</description><think>five</think>\boxed{5}", 0, 1),
    "loose": (r"I see <description>4 dots</description> \boxed{4}", 1, 1),
    "bare": (r"\boxed{4}", 1, 0),
    "nothing": ("dots", 0, 0),
}


def by_hand(name):
    text, right, described = SAID[name]
    return 0.9 * right + 0.1 * (name in ("all", "blind", "wrong")) + described


def judged(base, names, weight=1.0):
    """Rewards of what is said, group by group of two, and the prompts that the engine is given."""
    seen = []

    def say(policy, prompt, text, sample):
        seen.append(prompt)
        if prompt.images:
            return SAID[names[2 * int(prompt.key) + sample]][0]
        assert "Question: How many dots?" in text
        return r"<think>so</think>\boxed{4}" if "Description: 4 dots\n" in text else r"\boxed{9}"

    role = Describer(grpo=GRPOConfig(group_size=2, max_new_tokens=64), description_weight=weight)
    role.adopt(base, Clock())
    role.attach_engine(Scripted(say))
    items = [Example(str(n), plain_image(n), "How many dots?", "4") for n in range(len(names) // 2)]
    return role, role.judge(items, role.rollout(items, 2, seed=0), seed=0), seen


def test_rewards_by_hand(base):
    role, judgement, seen = judged(base, list(SAID))
    assert [by_hand(name) for name in SAID] == [2.0, 1.0, 1.1, 1.9, 0.9, 0.0]
    torch.testing.assert_close(judgement.rewards, torch.tensor([[2.0, 1.0], [1.1, 1.9], [0.9, 0.0]]))
    assert [record.reward for record in judgement.records] == judgement.rewards.flatten().tolist()
    assert judgement.statistics["description_fraction"] == pytest.approx(4 / 6)
    assert judgement.statistics["description_agreement"] == pytest.approx(3 / 6)
    assert [prompt.key for prompt in seen if not prompt.images] == ["0#0", "0#1", "1#0", "1#1"]
    assert role.clock.tokens["descriptions"] > 0
    _, halved, _ = judged(base, list(SAID), weight=0.5)
    torch.testing.assert_close(halved.rewards, torch.tensor([[1.5, 1.0], [0.6, 1.4], [0.9, 0.0]]))


def test_without_the_reward_nothing_is_asked_from_descriptions(base):
    role, judgement, seen = judged(base, list(SAID), weight=0)
    torch.testing.assert_close(judgement.rewards, torch.tensor([[1.0, 1.0], [0.1, 0.9], [0.9, 0.0]]))
    assert all(prompt.images for prompt in seen)
    assert role.clock.tokens["descriptions"] == 0


def test_arms_of_the_study_are_built(monkeypatch, tmp_path):
    study = read_study(ROOT / "examples/vision_sr1/study.yaml")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["visplay"])
    monkeypatch.setattr(VisPlayCLI, "_run_subcommand", lambda self, subcommand: None)
    weights = {}
    for arm in study.arms:
        role = run_command([*study.command(arm, 0), f"--trainer.default_root_dir={tmp_path}"]).model.roles["reasoner"]
        weights[arm.name] = role.description_weight
        assert (role.template, role.from_description) == (ANSWER, FROM_DESCRIPTION_HERE)
        assert (role.config.max_new_tokens, role.vlm.path) == (80, "runs/describer-base")
    torch.use_deterministic_algorithms(False)
    assert weights == {"labels-described": 1, "labels": 0, "silver-described": 1, "silver": 0}


def test_descriptions_of_stored_answers_are_read_again(base, monkeypatch, tmp_path):
    whole = heldout_caption("heldout/0")
    texts = [f"<description>{whole}</description>", "<description>a1 small red circle</description>", "none", ""]
    samples = [Answer(text, True, None, False) for text in texts]
    items = tuple(
        AnsweredItem(f"heldout/{n}", "heldout", "How many?", "4", {}, samples[0], tuple(samples[2 * n : 2 * n + 2]))
        for n in range(2)
    )
    store = AnswerStore(tmp_path)
    store.append(BatchAnswers("heldout", items, {}))

    def say(policy, prompt, text, sample):
        assert not prompt.images
        return r"\boxed{4}" if whole in text else r"\boxed{5}"

    monkeypatch.setattr(descriptions, "TransformersRollout", lambda: Scripted(say))
    role = Describer(grpo=GRPOConfig(max_new_tokens=64), from_description=FROM_DESCRIPTION_HERE, vlm=base)
    monkeypatch.setattr(ModelSource, "load", lambda source, like: base)
    found = descriptions.measure(role, ModelSource(), store)
    assert found == {"described": 0.5, "whole": 0.25, "answered_blind": 0.25}


@pytest.mark.parametrize("seed", range(3))
def test_rewards_are_those_of_plain_loops(base, seed):
    names = random.Random(seed).choices(list(SAID), k=8)
    _, judgement, _ = judged(base, names)
    torch.testing.assert_close(judgement.rewards.flatten(), torch.tensor([float(by_hand(name)) for name in names]))


def test_a_description_too_long_for_the_context_has_no_answer(base, monkeypatch):
    monkeypatch.setattr(type(base), "fits", lambda self, prompt, tokens: bool(prompt.images))
    _, judgement, _ = judged(base, ["all", "bare"])
    torch.testing.assert_close(judgement.rewards, torch.tensor([[1.0, 0.9]]))
    assert judgement.statistics["description_fraction"] == 0


def describe(policy, prompt, text, sample):
    """For a run of self-play: every question is about dots, and descriptions lead to the answer where they count."""
    if policy == "questioner":
        return f"<type>numerical</type><question>How many dots of {sample}?</question>"
    if not prompt.images:
        return r"<think>so</think>\boxed{4}" if "Description: 4 dots" in text else r"\boxed{9}"
    return SAID[("all", "blind", "wrong")[sample % 3]][0]


@pytest.mark.parametrize("base_config", ["tiny", "tiny_labelled"])
def test_a_run_through_the_command_line(base_config, tmp_path, monkeypatch):
    """Silver answers of self-play, and labels."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["visplay"])
    kept = []
    judge = Describer.judge
    monkeypatch.setattr(Describer, "judge", lambda *args: kept.append(judge(*args)) or kept[-1])
    role = "--model.reasoner" if base_config == "tiny" else "--model"
    alone = [config("vision_sr1_silver")] if base_config == "tiny" else ["--model=visplay.modules.Describer"]
    settings = [
        f"{role}.template.system=null",
        f"{role}.template.user={{question}}",
        f"{role}.grpo.mismatch.stop=false",
        "--rollout={class_path: helpers.Scripted, init_args: {script: recipes.test_vision_sr1.describe}}",
        "--self_play.curation.low=0",
        "--self_play.curation.high=1",
        f"--trainer.default_root_dir={tmp_path / 'root'}",
    ]
    settings += ["--model.questioner.grpo.mismatch.stop=false"] if base_config == "tiny" else []
    main(["fit", config(base_config), *alone, shrink(base_config, tmp_path), *settings])
    assert kept
    assert all(judgement.statistics["description_fraction"] == 1 for judgement in kept)
