import torch

from benchmarks import weak_scaling
from benchmarks.ranks import compare

EXPECTED = {
    "samples": [[[[1, 2], [3]]]],
    "votes": [["Vote(a)"]],
    "rewards": [[[0.5, 1.0]]],
    "generated rows": [b"row"],
    "admitted questions": [b"table"],
    "weights": [{"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([4.0])}],
    "summary": [{"iteration": 0, "score": 0.5}],
}


def test_an_equal_outcome():
    words, wrong = compare(EXPECTED, EXPECTED)
    assert wrong == []
    assert set(words.values()) == {"equal", "0.0e+00"}


def test_what_is_other_is_named():
    weights = [{"a": torch.tensor([3.0, 1e-4]), "b": torch.tensor([4.0])}]  # 1e-4 of 5
    other = EXPECTED | {"samples": [[[[1, 2], [4]]]], "weights": weights, "summary": [{"iteration": 0, "score": 0.501}]}
    words, wrong = compare(other, EXPECTED)
    assert wrong == ["samples", "weights", "summary"]
    assert (words["samples"], words["votes"], words["weights"], words["summary"]) == (
        *("**other**", "equal"),
        *("2.0e-05", "1.0e-03"),
    )


def test_two_ranks_are_compared_with_twice_the_speed_of_one():
    one, two = ({("reasoner", "update"): speeds} for speeds in ([90.0, 100.0, 130.0], [170.0, 500.0, 10.0]))
    assert weak_scaling.compare({1: one, 2: two}) == [["reasoner", "update", "100", "170", "85%"]]
