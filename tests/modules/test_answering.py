from dataclasses import replace

import pytest

from helpers import Scripted, image_number, plain_image
from visplay.benchmark_answers import Answer, BenchmarkBatch
from visplay.clock import Clock
from visplay.modules import GRPOConfig, Reasoner
from visplay.modules.answering import Answering, answer_batch
from visplay.prompts import Template
from visplay.tiny import ANSWER
from visplay.types import Example

CONFIG = GRPOConfig(steps=1, prompts_per_step=2, prompts_per_update=None, group_size=4, max_new_tokens=24)
SAID = {  # the greedy answer, and the sampled ones
    "half": ("\\boxed{1/2}", ["\\boxed{0.5}", "\\boxed{3}", "\\boxed{1/2}"]),
    "seven": ("\\boxed{8}", ["seven", "\\boxed{9}", ("\\boxed{7}", False)]),
    "none": (("\\boxed{7}", False), ["no", "box", "\\boxed{}"]),
}


def _script(policy, prompt, text, sample):
    (word,) = [word for word in SAID if word in text]
    return SAID[word][1][sample]


def _example(key, problem, answer="7", numbers=(1,), **metadata):
    first, *others = map(plain_image, numbers)
    return Example(key, first, problem, answer, further_images=tuple(others), metadata=metadata)


EXAMPLES = (_example("a", "half", "0.5", id="17"), _example("b", "seven"), _example("c", "none"))


class _Engine(Scripted):
    """Says greedily what the first of a pair in ``SAID`` is."""

    def sample(self, policy, prompts, sampling):
        self.script = self.greedy if sampling.temperature == 0 else _script
        self.prompts = prompts
        return super().sample(policy, prompts, sampling)

    def greedy(self, policy, prompt, text, sample):
        (word,) = [word for word in SAID if word in text]
        return SAID[word][0]


@pytest.fixture
def reasoner(base):
    reasoner = Reasoner(CONFIG, ANSWER)
    reasoner.adopt(base, Clock())
    reasoner.attach_engine(_Engine(_script))
    return reasoner


def _answer(reasoner, samples=3, examples=EXAMPLES, answering=Answering(), **skipped):  # noqa: B008 (frozen)
    return answer_batch(reasoner, BenchmarkBatch("b", samples, tuple(examples), skipped), answering, seed=5)


def test_answers_are_graded_by_hand(reasoner):
    answers = _answer(reasoner, z="no image")
    assert (answers.benchmark, answers.skipped) == ("b", {"z": "no image"})
    half, seven, none = answers.items
    assert (half.key, half.benchmark, half.problem, half.gold) == ("a", "b", "half", "0.5")
    assert half.metadata == {"id": "17"}
    assert half.greedy == Answer("\\boxed{1/2}", True, "1/2", True)
    assert [sample.correct for sample in half.samples] == [True, False, True]
    assert (half.majority, half.majority_correct) == ("0.5", True)
    assert seven.greedy == Answer("\\boxed{8}", True, "8", False)
    assert seven.samples == (
        Answer("seven", True, None, False),
        Answer("\\boxed{9}", True, "9", False),
        Answer("\\boxed{7}", False, None, False),
    )
    assert (seven.majority, seven.majority_correct) == ("9", False)
    assert none.greedy == Answer("\\boxed{7}", False, None, False)
    assert (none.majority, none.majority_correct) == (None, False)


def test_without_samples_there_is_the_greedy_answer_alone(reasoner):
    answers = _answer(reasoner, samples=0)
    assert [sampling.temperature for _, _, sampling in reasoner.engine.calls] == [0.0]
    assert [(row.samples, row.majority, row.majority_correct) for row in answers.items] == [((), None, False)] * 3


def test_an_empty_batch(reasoner):
    answers = _answer(reasoner, examples=(), z="no image")
    assert (answers.items, answers.skipped) == ((), {"z": "no image"})


def test_all_images_reach_the_prompt(reasoner):
    _answer(reasoner, examples=[_example("a", "half", numbers=(3, 1, 300)), _example("b", "none", numbers=(2,))])
    numbers = {prompt.key: [*map(image_number, prompt.images)] for prompt in reasoner.engine.prompts}
    assert numbers == {"a": [3, 1, 300], "b": [2]}
    ids = {prompt.key: prompt.token_ids for prompt in reasoner.engine.prompts}
    assert [ids[key].count(reasoner.vlm.image_token_id) for key in "ab"] == [3, 1]


def test_a_row_too_long_for_the_context_is_skipped(reasoner):
    """With its three images; the two that fit are answered as they would be without it."""
    long = _example("long", "none", numbers=(1, 2, 3))
    (prompt,) = reasoner.prompts([long])
    tokens = reasoner.vlm.prompt_tokens(prompt)
    reasoner.vlm = limited = reasoner.vlm.frozen_copy()
    limited.max_context_tokens = tokens + CONFIG.max_new_tokens - 1
    answers = _answer(reasoner, examples=[EXAMPLES[0], long, EXAMPLES[1]], z="no image")
    expected = f"a prompt of {tokens} tokens and an answer of 24 do not fit the context of {tokens + 23}"
    assert answers.skipped == {"z": "no image", "long": expected}
    assert answers.items == _answer(reasoner, examples=EXAMPLES[:2]).items
    limited.max_context_tokens += 1
    assert len(_answer(reasoner, examples=[long]).items) == 1


def test_settings_take_the_place_of_the_reasoner_s(reasoner):
    template = Template("Say: {question}")
    settings = {"max_new_tokens": 9, "temperature": 0.3, "top_p": 0.8, "top_k": 5}
    _answer(reasoner, answering=Answering(template=template, **settings))
    (_, _, greedy), (_, _, sampled) = reasoner.engine.calls
    own = reasoner.sampling(3, seed=5)
    assert sampled == replace(own, **settings)
    assert greedy == replace(own, n=1, max_new_tokens=9, temperature=0.0, top_p=1.0, top_k=0)
    assert "Say: half" in reasoner.vlm.tokenizer.decode(reasoner.engine.prompts[0].token_ids)


def test_settings_that_are_null_are_the_reasoner_s(reasoner):
    _answer(reasoner)
    (_, _, greedy), (_, _, sampled) = reasoner.engine.calls
    assert sampled == reasoner.sampling(3, seed=5)
    assert greedy == reasoner.sampling(1, seed=5, temperature=0.0)
    assert Answering(samples=8).sampling(reasoner, seed=5) == reasoner.sampling(1, seed=5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": -1}, "samples: -1 must be at least 0, or null"),
        ({"temperature": 0.0}, "temperature: 0.0 must be above 0; one answer is greedy in any case"),
        ({"temperature": float("nan")}, "temperature: nan must be above 0"),
        ({"max_new_tokens": 0}, "max_new_tokens: 0 must be at least 1, or null"),
        ({"top_p": 0.0}, r"top_p: 0.0 must be in \(0, 1\]"),
        ({"top_p": 1.1}, r"top_p: 1.1 must be in \(0, 1\]"),
        ({"top_k": -1}, "top_k: -1 must be at least 0"),
        ({"template": Template("Answer me.")}, r"template: its user message must hold {question}, got 'Answer me.'"),
    ],
)
def test_settings_that_nothing_could_be_answered_with(settings, message):
    with pytest.raises(ValueError, match=message):
        Answering(**settings)
