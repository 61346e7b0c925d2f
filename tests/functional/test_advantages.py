import math

import pytest
import torch

from visplay.functional import group_advantages, zero_variance_groups


def test_by_hand():
    # Means 0.5 and 3; unbiased variances (4 * 0.25) / 3 and (9 + 1 + 1 + 9) / 3.
    rewards = torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.0, 2.0, 4.0, 6.0]])
    low, high = 0.5 / math.sqrt(1 / 3), 1 / math.sqrt(20 / 3)
    expected = torch.tensor([[-low, low, low, -low], [-3 * high, -high, high, 3 * high]])
    torch.testing.assert_close(group_advantages(rewards, eps=0.0), expected)


def test_eps_joins_the_deviation():
    # Unbiased deviation sqrt(2); (1 / (sqrt(2) + 1)).
    advantages = group_advantages(torch.tensor([[0.0, 2.0], [5.0, 3.0]]), eps=1.0)
    expected = 1 / (math.sqrt(2) + 1)
    torch.testing.assert_close(advantages, torch.tensor([[-expected, expected], [expected, -expected]]))


def test_equal_rewards_teach_exactly_nothing():
    rewards = torch.tensor([[0.1] * 7, [0.1] * 6 + [0.2]])
    advantages = group_advantages(rewards, eps=0.0)
    assert advantages[0].tolist() == [0.0] * 7
    assert advantages[1].abs().min() > 0
    assert zero_variance_groups(rewards).tolist() == [True, False]


def test_a_group_of_one_teaches_nothing():
    assert group_advantages(torch.tensor([[3.0], [-1.0]])).tolist() == [[0.0], [0.0]]
    assert zero_variance_groups(torch.tensor([[3.0], [-1.0]])).tolist() == [True, True]


def test_low_precision_is_raised():
    assert group_advantages(torch.tensor([[0, 1], [1, 1]])).dtype == torch.float32
    assert group_advantages(torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16)).dtype == torch.float32
    assert group_advantages(torch.tensor([[0.0, 1.0]], dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("function", [group_advantages, zero_variance_groups])
@pytest.mark.parametrize("shape", [(), (4,), (2, 0), (1, 2, 3)])
def test_refuses_what_has_no_groups(function, shape):
    with pytest.raises(ValueError, match=r"rewards: must have shape \(N, G\) with G at least 1, got \("):
        function(torch.zeros(shape))


@pytest.mark.parametrize("function", [group_advantages, zero_variance_groups])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_refuses_what_is_not_finite_and_says_where(function, value):
    with pytest.raises(ValueError, match=r"rewards: must be finite, got \[\[0\.0, -?(nan|inf)\]\] in groups \[1\]"):
        function(torch.tensor([[1.0, 2.0], [0.0, value]]))
