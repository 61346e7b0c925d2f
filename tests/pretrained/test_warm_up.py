"""The warm-up of examples/pretrained, on a tiny Llama with random weights."""

import pytest
import torch

from examples.pretrained import warm_up
from examples.pretrained.warm_up import Lesson, own_answers, teach, write_lessons
from text_models import llama
from visplay.callbacks import TransformersRollout
from visplay.modules import CausalLM
from visplay.types import Completion, Sampling

QUESTIONS = ["What is 1 + 2?", "Which is larger, 3 or 4?", "What is 2 * 2?"]


@pytest.fixture
def policy(tmp_path):
    llama(tmp_path)
    policy = CausalLM(str(tmp_path))
    policy.load()
    return policy


def test_only_answers_that_are_numbers_count(policy, monkeypatch):
    said = iter([" 3\nQ", " three\n", "-4\n"])
    asked = []

    def generate(self, policy, prompts, sampling):
        asked.extend(policy.tokenizer.decode(prompt.token_ids) for prompt in prompts)
        ids = [tuple(policy.tokenizer.encode(next(said))) for _ in prompts]
        return [[Completion(row, (0.0,) * len(row), "", finished=False)] for row in ids]

    monkeypatch.setattr(TransformersRollout, "generate", generate)
    assert own_answers(policy, QUESTIONS, seed=0) == ["3", None, "-4"]
    assert [text.rpartition("\n")[2] for text in asked] == [f"Question: {each} Answer:" for each in QUESTIONS]
    assert len({text.rpartition("\n")[0] for text in asked}) == 1
    assert asked[0].count("\n") == 10


def test_each_role_is_shown_its_form(policy):
    lessons = write_lessons(policy, QUESTIONS, ["3", None, "5"])
    asked, answered = lessons[0], lessons[1]
    assert [lesson.reply for lesson in lessons] == [
        "<question>What is 1 + 2?</question> \\boxed{3}",
        "\\boxed{3}",
        "<question>What is 2 * 2?</question> \\boxed{5}",
        "\\boxed{5}",
    ]
    assert "What is 1 + 2?" not in policy.tokenizer.decode(asked.prompt.token_ids)
    assert "What is 1 + 2?" in policy.tokenizer.decode(answered.prompt.token_ids)


def test_what_is_taught_is_written_and_ended(policy):
    prompts = [lesson.prompt for lesson in write_lessons(policy, QUESTIONS[:1], ["3"])]
    lessons = [Lesson(prompt, reply) for prompt, reply in zip(prompts, ("one", "two three"), strict=True)]
    before = [weight.clone() for weight in policy.parameters()]
    teach(policy, lessons * 40, learning_rate=0.01, batch=2, seed=0)
    assert all(not torch.equal(*pair) for pair in zip(before, policy.parameters(), strict=True))
    groups = TransformersRollout().generate(policy.eval(), prompts, Sampling(1, 12, temperature=0.0))
    assert [(completion.text, completion.finished) for (completion,) in groups] == [("one", True), ("two three", True)]


def test_there_is_something_already(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["warm_up", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        warm_up.main()
    assert "is there already" in capsys.readouterr().err
