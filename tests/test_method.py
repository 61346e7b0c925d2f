"""Both columns of the table of docs/method.md, row by row, worked out by hand.

The published values are what the classes default to; the released ones are what configs/released_code.yaml selects.
"""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers import Scripted, plain_image
from visplay import functional
from visplay.cli import VisPlayCLI, run
from visplay.clock import Clock
from visplay.functional import keep_in_band
from visplay.modules import GRPOConfig, Questioner, Reasoner
from visplay.modules.learner.grpo import GRPO
from visplay.prompts import ANSWER
from visplay.types import Completion, Example, Prompt, Question, Rollout, Sampling, UnlabeledImage, Vote, derive_seed

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
    assert (vote.confidence, sampling.n, sampling.top_k) == (3 / 9, 9, 40)
    assert reasoner.is_valid(vote)


def test_five_boxes_of_nine(curation):
    """Among all answers, .556 and kept, as the released code curates; among the parsed ones, 1 and dropped."""
    answers = ["4"] * 5 + [None] * 4
    votes = [functional.vote(answers, count_unparsed=counted) for counted in (curation.voting.count_unparsed, False)]
    assert [v.confidence for v in votes] == [5 / 9, 1.0]
    assert keep_in_band(votes, curation.low, curation.high, curation.voting.min_parsed_fraction) == [0]


def test_a_tie(released, curation):
    """Ours is no label; the released code takes the answer that was sampled first, here a seeded draw."""
    votes = [Vote("a", 0.5, (("a", 5), ("b", 5)), 10, 10, tied=True), Vote("a", 0.5, (("a", 5), ("b", 4)), 10, 10)]
    settings = [voting.ties for voting in (Reasoner().voting, released.model.reasoner.voting, curation.voting)]
    assert settings == ["reject", "draw", "draw"]
    assert keep_in_band(votes, curation.low, curation.high) == [1]
    assert keep_in_band(votes, curation.low, curation.high, admit_ties=True) == [0, 1]


def test_band(curation):
    from visplay.callbacks import Curation

    votes = [Vote("a", c, (("a", 1),), 1, 1) for c in (0.24, 0.25, 0.3, 0.75, 0.8, 0.81)]
    assert keep_in_band(votes, Curation().low, Curation().high) == [1, 2, 3]
    assert keep_in_band(votes, curation.low, curation.high) == [2, 3, 4]


def test_reward_of_answers(released):
    texts = ["<think>x</think>\\boxed{4}", "<think>x</think> so \\boxed{4.0}", "<think>x</think>\\boxed{5}", "4"]
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
    assert "<think>" not in systems[0]
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
    spaced = around.replace("<type>", "< type >").replace("</type>", "< / type>")
    assert strict.parse(good.replace("<type>", "< type >")) is None
    assert loose.parse(spaced) == Question("How many?", "riddle", "4")


def test_sampling(base, released, curation):
    """The released code cuts the tail in training, more of it for the questions of the data set, and other tails."""
    for role in (Questioner(), Reasoner()):
        assert role.sampling(8, 0) == Sampling(8, 2048, 1.0, 1.0, 0, derive_seed(0, role.name))
    questioner, reasoner = released.model.questioner, released.model.reasoner
    assert questioner.sampling(8, 0) == Sampling(8, 2048, 1.0, 0.99, 0, derive_seed(0, "questioner"))
    assert reasoner.sampling(8, 0) == Sampling(8, 4096, 1.0, 0.99, 0, derive_seed(0, "reasoner"))
    assert (curation.max_new_tokens, curation.top_p, curation.top_k) == (4096, 0.95, None)
    assert (reasoner.voting.top_p, curation.voting.top_p) == (1.0, 1.0)


@pytest.mark.parametrize("role", ["questioner", "reasoner"])
def test_learning_rate_of_a_phase(released, role):
    """Constant; in the released code its first step, and that of every later phase, has the rate 0."""
    policy, optimizer = torch.nn.Linear(1, 1), torch.optim.AdamW([torch.zeros(1)], lr=1e-6)
    columns = {GRPOConfig(): [1e-6, 1e-6, 1e-6], getattr(released.model, role).config: [0, 1e-6, 1e-6]}
    for config, expected in columns.items():
        learner = GRPO(replace(config, kl_weight=0.0), Clock())
        for _ in range(2):
            learner.begin_phase(policy, optimizer)
            rates = []
            for _ in range(3):
                learner._set_learning_rate(optimizer)
                rates.append(optimizer.param_groups[0]["lr"])
            assert rates == expected


def test_overlay_leaves_the_sizes_alone(released):
    config = released.model.questioner.config
    assert (config.steps, config.prompts_per_step, config.prompts_per_update, config.group_size) == (40, 512, 128, 8)
