import math

import pytest
import torch
from omegaconf import OmegaConf

from helpers import Scripted, image_number, plain_image
from visplay.clock import Clock
from visplay.commands.settings.configuration import build
from visplay.functional import RareAnswers, TargetDifficulty, signed_questioner_rewards
from visplay.modules import GRPOConfig, Questioner, QuestionReward, Qwen2_5_VL, Reasoner, Voting
from visplay.modules.policy.weights.loading import load_processor
from visplay.tiny import ANSWER, ASK, BASE
from visplay.types import Example, UnlabeledImage

CONFIG = GRPOConfig(steps=1, prompts_per_step=2, prompts_per_update=None, group_size=4, max_new_tokens=32)
IMAGES = [UnlabeledImage("cat.png", plain_image(1)), UnlabeledImage("dog.png", plain_image(2))]


def _question(text, kind="numerical"):
    return f"<type>{kind}</type><question>{text}</question><answer>1</answer>"


SAID = [
    [
        _question("How many cats?"),
        _question("How many cats?"),
        _question("Is the sky above the tall old house grey?"),
        "no tags",
    ],
    [_question("a b c d e", "poem"), (_question("x y z w v"), False), _question("p q r s t"), _question("k l m n o")],
]


def _script(policy, prompt, text, sample):
    if policy == "questioner":
        return SAID[image_number(prompt.images[0]) - 1][sample]
    if "cats" in text:  # split in half
        return "\\boxed{1}" if sample % 2 else "\\boxed{2}"
    if "sky" in text:  # unanimous
        return "\\boxed{grey}"
    if "p q r" in text:  # 3 of 4 agree
        return "\\boxed{7}" if sample else "\\boxed{8}"
    return "no box" if sample < 2 else "\\boxed{5}"  # half of them do not parse


def _roles(base, **settings):
    questioner, reasoner = Questioner(CONFIG, ASK, **settings), Reasoner(CONFIG, ANSWER, Voting(votes=4))
    engine = Scripted(_script)
    for role in (questioner, reasoner):
        role.adopt(base, Clock())
        role.attach_engine(engine)
    questioner.judge_by(reasoner)
    engine.script = lambda name, prompt, text, sample: _script(
        "questioner" if "Ask." in text else "reasoner", prompt, text, sample
    )
    return questioner, reasoner


def test_questioner_rewards_by_hand(base):
    questioner, _ = _roles(base)
    rollout = questioner.rollout(IMAGES, 4, seed=0)
    judgement = questioner.judge(IMAGES, rollout, seed=0)
    # cats: difficulty 1, cluster of 2 among 4; sky: unanimous, ReLU(0 - 1/4); p q r: 1 - |2*0.75 - 1| - 1/4
    # k l m: only half of the answers parse, so it is invalid; poem is no allowed type; x y z was truncated
    expected = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.25, 0.0]])
    torch.testing.assert_close(judgement.rewards, expected)
    assert judgement.statistics["valid_fraction"] == 4 / 8
    assert judgement.statistics["tied_fraction"] == 2 / 8  # paid for its confidence all the same
    assert judgement.statistics["parsed_fraction"] == 5 / 8
    assert judgement.statistics["difficulty"] == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert judgement.statistics["repeated_fraction"] == 1 / 5


def test_questioner_with_the_released_combination(base):
    questioner, _ = _roles(base, reward=QuestionReward(combine=signed_questioner_rewards, redundancy_weight=2.0))
    judgement = questioner.judge(IMAGES, questioner.rollout(IMAGES, 4, seed=0), seed=0)
    expected = torch.tensor([[0.0, 0.0, -0.5, -1.0], [-1.0, -1.0, 0.0, -1.5]])
    torch.testing.assert_close(judgement.rewards, expected)


def test_questioner_paid_most_where_the_configuration_says(base):
    """As docs/method.md writes it; c is .5 of cats and .75 of p q r."""
    difficulty = {"class_path": "visplay.functional.TargetDifficulty", "init_args": {"target": 0.75}}
    reward = build(QuestionReward, OmegaConf.create({"difficulty": difficulty}))
    assert reward == QuestionReward(difficulty=TargetDifficulty(0.75))
    questioner, _ = _roles(base, reward=reward)
    judgement = questioner.judge(IMAGES, questioner.rollout(IMAGES, 4, seed=0), seed=0)
    assert judgement.rewards.tolist() == [[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.75, 0.0]]


def test_records_keep_image_question_and_votes_together(base):
    questioner, _ = _roles(base)
    judgement = questioner.judge(IMAGES, questioner.rollout(IMAGES, 4, seed=0), seed=0)
    assert [image_number(record.image) for record in judgement.records] == [1] * 4 + [2] * 4
    assert [record.reward for record in judgement.records] == judgement.rewards.flatten().tolist()
    assert [record.problem for record in judgement.records][:4] == ["How many cats?"] * 2 + [
        "Is the sky above the tall old house grey?",
        None,
    ]
    cats, sky = judgement.records[0].vote, judgement.records[2].vote
    assert (cats.confidence, cats.tied, {*cats.counts}) == (0.5, True, {("1", 2), ("2", 2)})
    assert (sky.answer, sky.confidence, sky.total) == ("grey", 1.0, 4)
    assert judgement.records[3].vote is None


def test_a_question_too_long_for_the_context_is_not_voted_on(base, monkeypatch):
    questioner, reasoner = _roles(base)
    short = base.encode("k", ANSWER, IMAGES[0].image, question="How many cats?")
    room = base.collate([short]).input_ids.shape[1] + CONFIG.max_new_tokens
    questions = questioner.ask(questioner.rollout(IMAGES, 4, seed=0))
    monkeypatch.setattr(base, "max_context_tokens", room)
    votes = reasoner.vote_on(IMAGES, questions, seed=0)
    assert votes[0][0] is not None
    assert votes[0][2] is None


def test_reasoner_rewards_agreement(base):
    _, reasoner = _roles(base)
    examples = [
        Example("a", IMAGES[0].image, "How many cats?", "2", score=0.5, votes=(("1", 2), ("2", 2))),
        Example("b", IMAGES[1].image, "k l m n o", "5.0", score=0.75),
    ]
    judgement = reasoner.judge(examples, reasoner.rollout(examples, 4, seed=0), seed=0)
    assert judgement.rewards.tolist() == [[1, 0, 1, 0], [0, 0, 1, 1]]
    assert judgement.statistics == {"parsed_fraction": 6 / 8, "agreement": 0.5, "confidence": 0.625}
    assert [record.gold for record in judgement.records] == [None] * 4 + ["5.0"] * 4  # no votes: a label
    assert judgement.records[0].vote.counts == (("1", 2), ("2", 2))


def test_reasoner_weighs_questions_by_a_function_of_the_configuration(base):
    _, reasoner = _roles(base)
    gaussian = {"class_path": "visplay.functional.GaussianWeights", "init_args": {"width": 0.25}}
    examples = [Example(key, IMAGES[0].image, "How many cats?", "2", score=c) for key, c in (("a", 0.5), ("b", 1.0))]
    for named, expected in ((gaussian, [math.exp(-2), 1]), ("visplay.functional.confidence_weights", [0.5, 1])):
        settings = {"class_path": "visplay.modules.Reasoner", "init_args": {"weight": named}}
        reasoner.weight = build(Reasoner, OmegaConf.create(settings)).weight
        judgement = reasoner.judge(examples, reasoner.rollout(examples, 4, seed=0), seed=0)
        torch.testing.assert_close(judgement.weights, torch.tensor(expected, dtype=torch.float32))
        assert judgement.statistics["weight"] == pytest.approx(sum(expected) / 2)


def test_reasoner_penalizes_what_its_own_answers_say_against_each_other(base):
    """cats is split in half; of p q r 3 of 4 agree, with a label that one gave."""
    _, reasoner = _roles(base)
    weak = {"class_path": "visplay.functional.WeakConsensus", "init_args": {"least": 0.6}}
    settings = {"class_path": "visplay.modules.Reasoner", "init_args": {"negatives": weak}}
    reasoner.negatives = build(Reasoner, OmegaConf.create(settings)).negatives
    examples = [
        Example(key, IMAGES[0].image, problem, answer)
        for key, problem, answer in (("a", "How many cats?", "2"), ("b", "p q r s t", "8"))
    ]
    judgement = reasoner.judge(examples, reasoner.rollout(examples, 4, seed=0), seed=0)
    assert judgement.rewards.tolist() == [[-1.0] * 4, [1.0, 0.0, 0.0, 0.0]]
    assert judgement.statistics["penalized_fraction"] == 0.5
    assert [record.reward for record in judgement.records] == judgement.rewards.flatten().tolist()
    seen = []
    reasoner.negatives = lambda *given: seen.append([each.tolist() for each in given]) or given[0]
    reasoner.judge(examples, reasoner.rollout(examples, 4, seed=0), seed=0)
    rewards, agrees, shares, surprisals = seen[0]
    assert rewards == agrees == [[1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
    assert shares == [[0.5] * 4, [0.25, 0.75, 0.75, 0.75]]
    assert surprisals == [[1.0] * 4] * 2  # as the scripted engine reports
    with pytest.raises(ValueError, match="group_size: shares need 20 answers at least, got 4"):
        Reasoner(CONFIG, ANSWER, negatives=RareAnswers())


def test_one_image_asked_about_twice_in_a_batch(base):
    questioner, _ = _roles(base)
    twice = [IMAGES[0], IMAGES[0]]
    rollout = questioner.rollout(twice, 4, seed=0)
    assert [p.key for p in rollout.prompts] == ["cat.png", "cat.png@1"]
    assert len(questioner.judge(twice, rollout, seed=0).records) == 8


def test_votes_need_two_answers():
    with pytest.raises(ValueError, match="votes: 1 must be at least 2"):
        Voting(votes=1)


def test_without_engine():
    with pytest.raises(RuntimeError, match="no rollout engine"):
        _ = Reasoner().engine


THINKS = "Is it <type>riddle</type><question>Fake?</question>? \\boxed{0}, or <think> and </think>?"
OPENING = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}{% if part.type == 'image' %}"
OPENING += "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n"
OPENING += "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"


@pytest.mark.parametrize("opened", [True, False])
def test_models_that_think(base, monkeypatch, opened):
    """Their thought comes before the question and before the answer, and quotes what it likes."""
    if opened:
        monkeypatch.setattr(base.tokenizer, "chat_template", OPENING)
    questioner, reasoner = _roles(base)
    begin = "" if opened else "<think>"

    def script(name, prompt, text, sample):
        assert text.endswith("<think>\n") == opened
        if "Ask." in text:
            return f"{begin}{THINKS}</think>\n\n{_question('How many cats?')}" if sample else THINKS
        return f"{begin}{THINKS}</think>\n\n\\boxed{{{sample % 2 + 1}}}" if sample < 3 else f"{begin}{THINKS}</think>"

    questioner.engine.script = reasoner.engine.script = script
    rollout = questioner.rollout(IMAGES, 3, seed=0)
    texts = [[question and question.text for question in group] for group in questioner.ask(rollout)]
    assert texts == [[None, "How many cats?", "How many cats?"]] * 2
    ((vote,),) = reasoner.vote_on(IMAGES[:1], [questioner.ask(rollout)[0][1:2]], seed=0)
    assert (dict(vote.counts), vote.parsed) == ({"1": 2, "2": 1}, 3)
    example = Example("a", IMAGES[0].image, "What?", "1")
    seen = []
    reasoner.reward = lambda agrees, formatted: seen.append((agrees.tolist(), formatted.tolist())) or agrees
    reasoner.judge([example], reasoner.rollout([example], 4, seed=0), seed=0)
    assert seen == [([[1.0, 0.0, 1.0, 0.0]], [[True, True, True, False]])]


def test_marks_of_a_thought_that_are_control_tokens_are_read(monkeypatch):
    processor = load_processor(str(BASE), None)
    tokenizer = processor.tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>", "<|pad_0|>"]})
    monkeypatch.setattr("visplay.modules.policy.vlm.load_processor", lambda *_: processor)
    policy = Qwen2_5_VL(str(BASE))
    policy.load()
    ids = tokenizer.encode("<think>hm</think>so<|pad_0|><|im_end|>", add_special_tokens=False)
    assert policy.decode(ids) == "<think>hm</think>so"
    assert not {*tokenizer.convert_tokens_to_ids(["<think>", "</think>"])} & {*policy.banned_token_ids.tolist()}
    assert tokenizer.convert_tokens_to_ids("<|pad_0|>") in policy.banned_token_ids
