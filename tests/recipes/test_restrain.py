import math

import pytest
import torch

from visplay.functional import GaussianWeights, WeakConsensus, group_advantages
from visplay.recipes.restrain import WeightedLabels, unchanged


def _shares(answers):
    return torch.tensor([[row.count(each) / len(row) if each else 0.0 for each in row] for row in answers])


def test_advantages_by_hand():
    """Two labels with shares 1/2 and 1/4 of four answers, and one that did not parse."""
    g = [math.exp(-0.5), math.exp(-1.125)]  # distances of 1/2 and 3/4 from 1, width 1/2
    w = [each / sum(g) for each in g]  # .6514, .3486
    a = [w[0] * 0.5 / math.sqrt(1 / 3) - w[1] * 0.25 / 0.5, -w[0] * 0.5 / math.sqrt(1 / 3) + w[1] * 0.75 / 0.5]
    c = -w[0] * 0.5 / math.sqrt(1 / 3) - w[1] * 0.25 / 0.5
    advantages = WeightedLabels()([[]], _shares([["a", "b", "a", None]]))
    torch.testing.assert_close(advantages, torch.tensor([[a[0], a[1], a[0], c]]))
    torch.testing.assert_close(advantages, torch.tensor([[0.3898, -0.0411, 0.3898, -0.7384]]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("answers", ["aabbcd", "aaabbb", "abcdef", "aaaaab", "aabb__"])
def test_they_are_the_weighted_sum_of_what_each_label_alone_gives(answers):
    row = [None if each == "_" else each for each in answers]
    labels = sorted(set(row) - {None})
    weigh = WeightedLabels()
    g = {label: math.exp(-((row.count(label) / len(row) - 1) ** 2) * 2) for label in labels}
    expected = sum(
        g[label] / sum(g.values()) * group_advantages(torch.tensor([[float(each == label) for each in row]]), eps=0.0)
        for label in labels
    )
    torch.testing.assert_close(weigh([[]], _shares([row])), expected)


def test_a_weak_majority_is_pushed_down_and_unanimity_teaches_nothing():
    shares = _shares([["a", "b", "c", "d", "e"], ["a", "a", "c", "d", "e"], ["a"] * 5, [None] * 5])
    labels = WeightedLabels()([[]], shares)
    assert labels[2].tolist() == labels[3].tolist() == [0.0] * 5
    advantages = unchanged(WeakConsensus(least=0.25, penalty=0.5)(labels, shares, shares, shares))
    assert advantages[0].tolist() == advantages[3].tolist() == [-0.5] * 5
    assert torch.equal(advantages[1:3], labels[1:3])
    assert advantages[1, 0] > 0 > advantages[1, 2]


def test_labels_are_weighed_as_questions_are():
    """One g for both: RESTRAIN has the same function of the base's majority for the weight of a question."""
    weights, labels = GaussianWeights(), WeightedLabels()
    assert (weights.centre, weights.width) == (labels.centre, labels.width)


def test_no_width():
    with pytest.raises(ValueError, match="width: must be positive, got 0"):
        WeightedLabels(width=0)
