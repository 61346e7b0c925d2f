"""A reward that is told the votes on questions, or what the others of a group answer."""

import pytest
import torch

from helpers import Scripted, image_number, plain_image
from visplay.clock import Clock
from visplay.functional import signed_questioner_rewards
from visplay.modules import GRPOConfig, Questioner, QuestionReward, Reasoner, Voting
from visplay.tiny import ANSWER, ASK
from visplay.types import Example, UnlabeledImage

CONFIG = GRPOConfig(steps=1, prompts_per_step=2, prompts_per_update=None, group_size=4, max_new_tokens=32)
IMAGES = [UnlabeledImage(f"{number}.png", plain_image(number)) for number in (1, 2)]
ASKED = "<type>numerical</type><question>How many on {}?</question><answer>{}</answer>"


def _script(policy, prompt, text, sample):
    """Of each image's four questions the last does not parse; three of four answers are right."""
    number = image_number(prompt.images[0])
    if "Ask." in text:
        return ASKED.format(number, sample) if sample < 3 else "no tags"
    return f"\\boxed{{{number}}}" if sample else "no box"


def _roles(base, reward=QuestionReward(), **settings):  # noqa: B008 (frozen)
    questioner = Questioner(CONFIG, ASK, reward=reward)
    reasoner = Reasoner(CONFIG, ANSWER, Voting(votes=4, min_parsed_fraction=0.5), **settings)
    for role in (questioner, reasoner):
        role.adopt(base, Clock())
        role.attach_engine(Scripted(_script))
    questioner.judge_by(reasoner)
    return questioner, reasoner


def test_a_judge_of_questions_is_told_questions_and_votes(base):
    """Its figure is r_unc, so that validity and redundancy count as ever."""

    def judge(questions, votes, equivalence):
        pairs = [zip(*group, strict=True) for group in zip(questions, votes, strict=True)]
        return torch.tensor(
            [[float(bool(q) and equivalence(q.answer, v.answer)) + 0.25 * (v is None) for q, v in g] for g in pairs]
        )

    reward = QuestionReward(judge=judge, redundancy_weight=0.0, combine=signed_questioner_rewards)
    questioner, _ = _roles(base, reward)
    judgement = questioner.judge(IMAGES, questioner.rollout(IMAGES, 4, seed=0), seed=0)
    assert judgement.rewards.tolist() == [[0, 1, 0, -1], [0, 0, 1, -1]]
    assert judgement.statistics["difficulty"] == pytest.approx(2 / 6)


def test_a_reward_of_groups_is_told_completions_and_shares(base):
    """Silver answers play no part in it, and are measured all the same."""
    told = []

    def reward(texts, shares):
        told.append((texts, shares.tolist()))
        return shares / 2

    _, reasoner = _roles(base, group_reward=reward)
    examples = [Example(f"{n}", image.image, "How many?", "1") for n, image in enumerate(IMAGES)]
    judgement = reasoner.judge(examples, reasoner.rollout(examples, 4, seed=0), seed=0)
    texts = [["no box", *[f"\\boxed{{{number}}}"] * 3] for number in (1, 2)]
    assert told == [(texts, [[0, 0.75, 0.75, 0.75]] * 2)]
    assert judgement.rewards.tolist() == [[0, 0.375, 0.375, 0.375]] * 2
    assert judgement.statistics["agreement"] == 3 / 8
    assert [record.reward for record in judgement.records] == judgement.rewards.flatten().tolist()
