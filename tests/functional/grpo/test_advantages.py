import math

import pytest
import torch

from visplay.functional import (
    centred_advantages,
    group_advantages,
    leave_one_out_advantages,
    zero_variance_groups,
)

ADVANTAGES = [group_advantages, centred_advantages, leave_one_out_advantages]


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


def test_centred_by_hand():
    rewards = torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.0, 2.0, 4.0, 6.0], [3.0, 3.0, 3.0, 3.0]])
    expected = [[-0.5, 0.5, 0.5, -0.5], [-3.0, -1.0, 1.0, 3.0], [0.0] * 4]
    assert centred_advantages(rewards).tolist() == expected


def test_leave_one_out_by_hand():
    # Means of the others: 2/3, 1/3, 1/3, 2/3 and 4, 10/3, 8/3, 2.
    rewards = torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.0, 2.0, 4.0, 6.0], [3.0, 3.0, 3.0, 3.0]])
    expected = torch.tensor([[-2 / 3, 2 / 3, 2 / 3, -2 / 3], [-4.0, -4 / 3, 4 / 3, 4.0], [0.0] * 4])
    torch.testing.assert_close(leave_one_out_advantages(rewards), expected)


@pytest.mark.parametrize("function", ADVANTAGES)
def test_equal_rewards_teach_exactly_nothing(function):
    rewards = torch.tensor([[0.1] * 7, [0.1] * 6 + [0.2]])
    advantages = function(rewards, eps=0.0) if function is group_advantages else function(rewards)
    assert advantages[0].tolist() == [0.0] * 7
    assert advantages[1].abs().min() > 0
    assert zero_variance_groups(rewards).tolist() == [True, False]


@pytest.mark.parametrize("function", ADVANTAGES)
def test_a_group_of_one_teaches_nothing(function):
    assert function(torch.tensor([[3.0], [-1.0]])).tolist() == [[0.0], [0.0]]
    assert zero_variance_groups(torch.tensor([[3.0], [-1.0]])).tolist() == [True, True]


@pytest.mark.parametrize("function", ADVANTAGES)
def test_low_precision_is_raised(function):
    assert function(torch.tensor([[0, 1], [1, 1]])).dtype == torch.float32
    assert function(torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16)).dtype == torch.float32
    assert function(torch.tensor([[0.0, 1.0]], dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("function", [*ADVANTAGES, zero_variance_groups])
@pytest.mark.parametrize("shape", [(), (4,), (2, 0), (1, 2, 3)])
def test_refuses_what_has_no_groups(function, shape):
    with pytest.raises(ValueError, match=r"rewards: must have shape \(N, G\) with G at least 1, got \("):
        function(torch.zeros(shape))


@pytest.mark.parametrize("function", [*ADVANTAGES, zero_variance_groups])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_refuses_what_is_not_finite_and_says_where(function, value):
    with pytest.raises(ValueError, match=r"rewards: must be finite, got \[\[0\.0, -?(nan|inf)\]\] in groups \[1\]"):
        function(torch.tensor([[1.0, 2.0], [0.0, value]]))
