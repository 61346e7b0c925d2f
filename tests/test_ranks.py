import pytest
from hypothesis import given
from hypothesis import strategies as st

from visplay.ranks import deal


def test_deal_by_hand():
    assert deal([7, 7, 6, 6, 5, 4, 4, 5, 4], 3) == [[0, 4, 5], [1, 6, 7], [2, 3, 8]]  # 16 each


@pytest.mark.parametrize(
    ("costs", "ranks", "expected"),
    [
        ([], 2, [[], []]),
        ([5], 3, [[0], [], []]),
        ([1, 1, 1, 1, 1], 2, [[0, 2, 4], [1, 3]]),
        ([0, 0, 3], 2, [[2], [0, 1]]),
        ([2, 9, 4], 1, [[0, 1, 2]]),
    ],
)
def test_few_items_ties_and_items_that_cost_nothing(costs, ranks, expected):
    assert deal(costs, ranks) == expected


@given(st.lists(st.integers(0, 1000), max_size=40), st.integers(1, 9))
def test_every_item_is_dealt_once_and_no_rank_is_overloaded(costs, ranks):
    dealt = deal(costs, ranks)
    assert len(dealt) == ranks
    assert sorted(index for indices in dealt for index in indices) == list(range(len(costs)))
    assert all(indices == sorted(indices) for indices in dealt)
    loads = [sum(costs[index] for index in indices) for indices in dealt]
    assert max(loads) <= sum(costs) / ranks + max(costs, default=0)  # no greedy dealing is worse
