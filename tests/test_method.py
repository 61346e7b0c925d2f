"""Both columns of the table of docs/method.md, row by row, worked out by hand.

The published values are what the classes default to; the released ones are what configs/released_code.yaml selects.
"""

import sys
from pathlib import Path

import pytest
import torch

from helpers import Scripted, plain_image
from visplay.cli import VisPlayCLI, run
from visplay.clock import Clock
from visplay.functional import keep_in_band
from visplay.modules import GRPOConfig, Questioner, Reasoner
from visplay.prompts import ANSWER
from visplay.types import Completion, Example, Prompt, Question, Rollout, UnlabeledImage

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def released():
    """The 3B configuration with the overlay."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["visplay"])
        patch.setattr(VisPlayCLI, "_run_subcommand", lambda self, subcommand: None)
        configs = [f"--config={ROOT / 'configs' / name}.yaml" for name in ("qwen2_5_vl_3b", "released_code")]
        return run(["fit", *configs, "--trainer.accelerator=cpu", "--trainer.precision=32-true"])


@pytest.fixture
def curation(released):
    return next(callback.curation for callback in released.trainer.callbacks if hasattr(callback, "curation"))


CONFIDENCE = torch.tensor([[0.5, 0.75], [1.0, 0.2]])
TEXTS = [["how many dots are there", "how many dots are there"], ["which colour is it", "what is to the left"]]
VALID = torch.tensor([[True, False], [True, True]])


def test_difficulty(released):
    torch.testing.assert_close(Questioner().reward.difficulty(CONFIDENCE), torch.tensor([[1.0, 0.5], [0.0, 0.4]]))
    reward = released.model.questioner.reward
    torch.testing.assert_close(reward.difficulty(CONFIDENCE), torch.tensor([[0.5, 0.25], [0.0, 0.2]]))


def test_redundancy(released):
    published, other = Questioner().reward, released.model.questioner.reward
    assert published.redundancy(TEXTS).tolist() == [[1.0, 1.0], [0.5, 0.5]]
    assert other.redundancy(TEXTS).tolist() == [[0.5, 0.5], [0.25, 0.25]]
    assert published.redundancy_weight == other.redundancy_weight == 1.0


def test_combination(released):
    hardness, repetition = torch.tensor([[1.0, 0.5], [0.0, 0.5]]), torch.tensor([[0.25, 0.25], [0.5, 0.25]])
    published = Questioner().reward.combine(VALID, hardness, repetition)
    assert published.tolist() == [[0.75, 0.0], [0.0, 0.25]]
    other = released.model.questioner.reward.combine(VALID, hardness, repetition)
    assert other.tolist() == [[0.75, -1.25], [-0.5, 0.25]]


def test_votes_per_stage(released, curation):
    assert Reasoner().voting.votes == 10
    assert (released.model.reasoner.voting.votes, curation.voting.votes) == (10, 9)


def _hold_vote(base, voting):
    """Of K answers the first three say 4, the next 5, and the rest do not parse."""

    def say(policy, prompt, text, sample):
        return "\\boxed{4}" if sample < 3 else "\\boxed{5}" if sample < 4 else "none"

    reasoner = Reasoner(GRPOConfig(max_new_tokens=32), ANSWER, voting)
    reasoner.adopt(base, Clock())
    reasoner.attach_engine(Scripted(say))
    images = [UnlabeledImage("a", plain_image(1))]
    (((vote,),), (engine,)) = reasoner.vote_on(images, [[Question("How many?", "numerical")]], 0), [reasoner.engine]
    return vote, engine.calls[-1][2], reasoner


def test_denominator_of_the_confidence(base, released, curation):
    """Ours, 3 of the 4 that parsed, and too few parsed for the vote to count; the paper's, 3 of all K."""
    vote, _, reasoner = _hold_vote(base, Reasoner().voting)
    assert vote.confidence == 3 / 4
    assert not reasoner.is_valid(vote)
    vote, sampling, reasoner = _hold_vote(base, released.model.reasoner.voting)
    assert (vote.confidence, sampling.n, sampling.top_k) == (3 / 10, 10, 40)
    assert reasoner.is_valid(vote)
    vote, sampling, reasoner = _hold_vote(base, curation.voting)
    assert (vote.confidence, sampling.n, sampling.top_k) == (3 / 4, 9, 40)
    assert reasoner.is_valid(vote)


def test_band(curation):
    from visplay.callbacks import Curation
    from visplay.types import Vote

    votes = [Vote("a", c, (("a", 1),), 1, 1) for c in (0.24, 0.25, 0.3, 0.75, 0.8, 0.81)]
    assert keep_in_band(votes, Curation().low, Curation().high) == [1, 2, 3]
    assert keep_in_band(votes, curation.low, curation.high) == [2, 3, 4]


def test_reward_of_answers(released):
    texts = ["<think>x</think>\\boxed{4}", "\\boxed{4.0}", "<think>x</think>\\boxed{5}", "4"]
    completions = tuple(Completion((1,), (0.0,), text, finished=True) for text in texts)
    rollout = Rollout((Prompt("a", (1,), ()),), (completions,))
    items = [Example("a", plain_image(1), "How many?", "4")]
    assert Reasoner().judge(items, rollout, 0).rewards.tolist() == [[1.0, 1.0, 0.0, 0.0]]
    rewards = released.model.reasoner.judge(items, rollout, 0).rewards
    torch.testing.assert_close(rewards, torch.tensor([[1.0, 0.9, 0.1, 0.0]]))


RATIOS = torch.tensor([[0.5, 1.25, 1.4, 4.0]])


@pytest.mark.parametrize(
    ("advantage", "published", "other"),
    [
        (1.0, [0.5, 1.2, 1.2, 1.2], [0.5, 1.25, 1.3, 1.3]),
        (-1.0, [-0.8, -1.25, -1.4, -4.0], [-0.8, -1.25, -1.4, -3.0]),
    ],
)
@pytest.mark.parametrize("role", ["questioner", "reasoner"])
def test_clip(released, role, advantage, published, other):
    for config, expected in ((GRPOConfig(), published), (getattr(released.model, role).config, other)):
        for ratio, value in zip(RATIOS[0], expected, strict=True):
            one = torch.ones(1, 1)
            loss, _ = config.policy_loss(ratio.log() * one, 0 * one, torch.tensor([advantage]), one, **config.clips)
            assert -loss.item() == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("role", ["questioner", "reasoner"])
def test_kl(released, role):
    """To the start of the phase in both columns, as METHOD decides; the paper's text, the old policy, is a setting."""
    config = getattr(released.model, role).config
    assert (config.kl_weight, config.kl_reference, config.kl_in) == (0.01, "phase_start", "loss")
    logps, reference = torch.tensor([[-1.0, -1.0, -30.0]]), torch.tensor([[-1.0, -2.0, -1.0]])
    expected = [0.0, torch.e**-1, 10.0]  # exp(d) - d - 1 at d = 0, -1, 29, clamped
    torch.testing.assert_close(config.kl_estimator(logps, reference), torch.tensor([expected]))
    assert (GRPOConfig().kl_reference, GRPOConfig(kl_reference="old").kl_reference) == ("phase_start", "old")


def test_advantage(released):
    rewards = torch.tensor([[0.0, 0.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0]])
    expected = torch.tensor([[-0.8660239, -0.8660239, 0.8660239, 0.8660239], [0.0, 0.0, 0.0, 0.0]])  # 0.5 / 0.57735127
    for config in (GRPOConfig(), released.model.reasoner.config):
        torch.testing.assert_close(config.advantage(rewards), expected, atol=1e-6, rtol=0)


def test_prompts_per_stage(released, curation):
    """One prompt by default; the released code answers at once, by steps, and in a third way."""
    assert Reasoner().voting.template is None
    reasoner = released.model.reasoner
    systems = [t.system for t in (reasoner.template, reasoner.voting.template, curation.voting.template)]
    assert len(set(systems)) == 3
    assert "without any reasoning" in systems[1]
    assert "step by step" in systems[2]


def test_format_of_a_question(released):
    strict, loose = Questioner().format, released.model.questioner.format
    good = "<type>numerical</type><question>How many?</question>"
    around = "Sure: <type>riddle</type><question>How many?</question><answer>4</answer>"
    assert strict.parse(good) == Question("How many?", "numerical")
    assert strict.parse(around) is None
    assert loose.parse(good) is None
    assert loose.parse(around) == Question("How many?", "riddle", "4")


def test_overlay_leaves_the_sizes_alone(released):
    config = released.model.questioner.config
    assert (config.steps, config.prompts_per_step, config.prompts_per_update, config.group_size) == (40, 512, 128, 8)
