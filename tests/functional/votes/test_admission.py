import numpy as np
import pytest

from visplay.functional import find_repeated, observed_quantile, vote_lead, why_outside
from visplay.types import Vote


def _vote(*counts, total=10, tied=False):
    named = tuple(zip("abcd", counts, strict=False))
    parsed = sum(counts)
    return Vote("a" if counts else None, counts[0] / parsed if counts else 0.0, named, parsed, total, tied)


@pytest.mark.parametrize(("value", "side"), [(0.29, "below"), (0.3, None), (0.5, None), (0.8, None), (0.81, "above")])
def test_the_ends_of_a_band_are_inside(value, side):
    assert why_outside(value, 0.3, 0.8) == side


@pytest.mark.parametrize(
    ("vote", "lead"),
    [
        (_vote(6, 3, 1), 0.3),
        (_vote(5, 3), 0.2),  # two of ten did not parse: among those that did it is 1/4
        (_vote(10), 1.0),
        (_vote(7), 0.7),
        (_vote(5, 5, tied=True), 0.0),
        (_vote(3, 2, tied=True, total=6), 0.0),  # one answer agrees with both, and is counted with the winner
        (_vote(), 0.0),
        (_vote(total=0), 0.0),
    ],
)
def test_lead_by_hand(vote, lead):
    assert vote_lead(vote) == lead


@pytest.mark.parametrize(
    ("fraction", "value"), [(0.0, 0.2), (0.2, 0.2), (0.21, 0.5), (0.6, 0.5), (0.61, 0.7), (0.8, 0.7), (1.0, 0.9)]
)
def test_quantile_by_hand(fraction, value):
    assert observed_quantile([0.5, 0.9, 0.2, 0.7, 0.5], fraction) == value


def test_a_quantile_is_not_moved_by_rounding():
    assert 0.07 * 100 > 7
    assert observed_quantile([float(n) for n in range(1, 101)], 0.07) == 7.0


@pytest.mark.parametrize("fraction", [eighth / 8 for eighth in range(9)])
def test_quantile_is_the_inverse_of_the_distribution(fraction):
    values = np.random.default_rng(0).integers(0, 11, 77) / 10
    expected = np.quantile(values, fraction, method="inverted_cdf")
    assert observed_quantile(values.tolist(), fraction) == expected


@pytest.mark.parametrize(("values", "fraction"), [([], 0.5), ([0.1], 1.1), ([0.1], -0.1), ([0.1], float("nan"))])
def test_no_quantile(values, fraction):
    with pytest.raises(ValueError, match=rf"0 <= fraction <= 1, got {len(values)} and {fraction}"):
        observed_quantile(values, fraction)


def test_repeated_words_by_hand():
    groups = [["How many?", "Which one?", "how  MANY?", "Which two?", "How many?"], [], ["How many?"]]
    assert find_repeated(groups) == [[False, False, True, False, True], [], [False]]


def test_near_duplicates_are_those_of_the_clusters():
    """The first two share 5/6, 4/5, 3/4 and 2/3 of their n-grams: their distance is 1 - (1/3)^(1/4) = .24."""
    texts = ["how many red dots are there", "how many red dots are here", "what is this"]
    assert find_repeated([texts], threshold=0.5) == [[False, True, False]]
    assert find_repeated([texts, texts[1:]], threshold=0.24) == [[False, False, False], [False, False]]
    assert find_repeated([[*texts, *texts]], threshold=0.1) == [[False] * 3 + [True] * 3]
