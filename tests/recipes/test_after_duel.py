from dataclasses import replace

import torch

from helpers import Scripted, image_number
from runs import CONFIG, fit
from visplay.callbacks import Curation, SelfPlay
from visplay.data.generated import read_examples
from visplay.functional import equivalent, questioner_rewards
from visplay.modules import QuestionFormat, QuestionReward, Qwen2_5_VL, Reasoner, Voting
from visplay.recipes.after_duel import Challenger, Duel, doubt
from visplay.tiny import ANSWER, ASK, BASE
from visplay.types import Completion, Question, Vote

FORMAT = QuestionFormat(kinds=None, require=("question", "answer"))


def _written(true, false):
    return f"<question>{true}</question><answer>{false}</answer>"


def _parse(text):
    return Challenger(format=FORMAT).parse(Completion((), (), text, True))


def test_a_pair_is_asked_as_a_choice_with_the_letter_of_the_true_claim():
    letters = []
    for n in range(20):
        asked = _parse(_written(f"{n} cats", f"{n} dogs"))
        _, first, second = asked.text.split("\n")
        letters.append(asked.answer)
        assert (first, second)["ab".index(asked.answer)] == f"{asked.answer.upper()}. {n} cats"
        assert {first[3:], second[3:]} == {f"{n} cats", f"{n} dogs"}
        assert _parse(_written(f"{n} cats", f"{n} dogs")) == asked
    assert set(letters) == {"a", "b"}


def test_what_is_no_pair():
    assert _parse("<question>cats</question>") is None
    assert _parse(_written("cats", "cats")) is None


def test_questions_are_paid_for_votes_that_are_wrong():
    asked = [[Question("?", "", "a"), Question("?", "", "b"), None]]
    votes = [[Vote("b", 2 / 3, (("b", 2), ("a", 1)), 3, 3), Vote("b", 1.0, (("b. dogs", 3),), 3, 3), None]]
    torch.testing.assert_close(doubt(asked, votes, equivalent), torch.tensor([[2 / 3, 0.0, 0.0]]))


def _script(policy, prompt, text, sample):
    """Images with an odd number fool two of three votes."""
    number = image_number(prompt.images[0])
    if policy == "questioner":
        return _written(f"{number} red dots", f"{number} blue dots") if sample else "nonsense"
    right = "A" if f"A. {number} red" in text else "B"
    wrong = "B" if right == "A" else "A"
    return f"\\boxed{{{wrong if number % 2 and sample else right}}}"


def test_a_run_learns_labels_that_the_majority_contradicts(tmp_path):
    config = replace(CONFIG, steps=1)
    reward = QuestionReward(judge=doubt, redundancy_weight=0.0, combine=questioner_rewards)
    asks = Challenger(config, ASK, FORMAT, reward)
    module = Duel(Qwen2_5_VL(str(BASE)), asks, Reasoner(config, ANSWER, Voting(votes=3, ties="draw")))
    curation = Curation(images=4, questions_per_image=2, low=0.0, high=1.0)
    _, _, self_play = fit(tmp_path, module=module, engine=Scripted(_script), self_play=SelfPlay(1, curation))
    examples = list(read_examples(self_play.dataset))
    assert len(examples) == 4
    for example in examples:
        odd = image_number(example.image) % 2
        letter = "ab"["B. " in example.problem.partition(" red")[0]]
        assert (example.answer, example.score) == (letter, 1 / 3 if odd else 1.0)
        other = "ab"["ab".index(letter) - 1]
        assert example.votes == (((letter, 1), (other, 2)) if odd else ((letter, 3),))
    assert {image_number(example.image) % 2 for example in examples} == {0, 1}
