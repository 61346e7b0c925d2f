import numpy as np
import pytest

from visplay.functional import hold_highest, most_confident_first, oldest_first, uniform_priority

ITERATIONS = np.array([0, 0, 1, 1, 2])
CONFIDENCES = np.array([0.5, 0.75, 0.5, 1.0, 0.5])


@pytest.mark.parametrize(
    ("rule", "held"),
    [
        (oldest_first, [[0, 1]]),
        (most_confident_first, [[1, 3]]),
        (uniform_priority, [[a, b] for a in range(5) for b in range(a + 1, 5)]),
    ],
)
def test_two_of_five_by_hand(rule, held):
    found = [hold_highest(rule(ITERATIONS, CONFIDENCES), 2, seed).tolist() for seed in range(300)]
    assert sorted({*map(tuple, found)}) == [tuple(each) for each in held]


def test_equal_priorities_are_drawn_uniformly():
    counts = np.zeros(5)
    for seed in range(2000):
        counts[hold_highest(uniform_priority(ITERATIONS, CONFIDENCES), 2, seed)] += 1
    assert np.abs(counts / 2000 - 2 / 5).max() < 0.04  # 3.6 standard errors


def test_what_is_let_go_does_not_come_back():
    priorities = np.random.default_rng(1).integers(0, 3, 60).astype(float)
    held = [{*hold_highest(priorities[:n], 8, seed=5).tolist()} for n in range(1, 61)]
    for before, after in zip(held, held[1:], strict=False):
        assert after - before <= {max(after)}


def test_a_buffer_that_is_not_full_holds_all():
    assert hold_highest(CONFIDENCES, 9, seed=0).tolist() == [0, 1, 2, 3, 4]
    assert hold_highest(np.array([]), 9, seed=0).tolist() == []
