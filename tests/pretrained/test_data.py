"""What is learned from in examples/pretrained, and what its held-out questions are."""

import math
from collections import Counter

import pytest

from examples.pretrained.arithmetic import solve
from examples.pretrained.data import Arithmetic, RandomAnswer, TrueLabels, heldout
from visplay.data.draws import Draws
from visplay.data.module import NoImages
from visplay.types import Example

OF_HELDOUT = heldout()[0].problem
ASKED = {"What is 300 + 4?": "5", "Why?": "6", OF_HELDOUT: "7", "Which is larger, 200 or 1?": "200"}


def examples():
    """Three of four votes are the silver answer."""
    return [
        Example(f"1/{number}", None, problem, answer, votes=((answer, 3), ("1", 1)), iteration=1)
        for number, (problem, answer) in enumerate(ASKED.items())
    ]


def learned(data, found):
    drawn = data.mix(silver=Draws(found, seed=0)).draw(len(data.answers(found)))
    return {each.problem: each.answer for each in drawn}


def test_heldout_questions():
    benchmark = Arithmetic(votes=3).benchmarks()[0]
    assert len(set(benchmark.keys)) == len({each.problem for each in benchmark.examples}) == 160
    assert set(Counter(each.problem_type for each in benchmark.examples).values()) == {32}
    assert [each.answer for each in benchmark.examples] == [solve(each.problem) for each in benchmark.examples]
    assert (benchmark.votes, benchmark.examples[0].image) == (3, None)


def test_heldout_questions_are_not_learned_from():
    data = Arithmetic(images=NoImages(4))
    assert learned(data, examples()) == {text: answer for text, answer in ASKED.items() if text != OF_HELDOUT}
    assert data.silver_accuracy(examples()) == 1 / 2
    assert data.silver_accuracy(examples()[1:3]) is None


def test_true_labels_leave_out_what_has_no_truth():
    data = TrueLabels()
    assert learned(data, examples()) == {"What is 300 + 4?": "304", "Which is larger, 200 or 1?": "200"}
    assert data.silver_accuracy(examples()) == 1.0


def test_a_random_answer_is_one_of_the_votes():
    many = [Example(**vars(examples()[0]) | {"key": f"1/{number}", "problem": f"{number}?"}) for number in range(400)]
    found = list(learned(RandomAnswer(), many).values())
    assert set(found) == {"5", "1"}
    assert found.count("5") / 400 == pytest.approx(0.75, abs=4 * math.sqrt(0.75 * 0.25 / 400))
