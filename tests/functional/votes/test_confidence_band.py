import pytest

from visplay.functional import confidence_histogram, in_band, keep_in_band, relax_band
from visplay.types import Vote


def _vote(count: int, parsed: int, total: int | None = None) -> Vote:
    answer = "a" if parsed else None
    return Vote(answer, count / parsed if parsed else 0.0, (("a", count),), parsed, total or parsed)


@pytest.mark.parametrize(
    ("count", "parsed", "kept"),
    [(1, 4, True), (3, 4, True), (2, 9, False), (3, 9, True), (6, 9, True), (7, 9, False), (8, 8, False)],
)
def test_the_published_band_includes_its_ends(count, parsed, kept):
    assert in_band(_vote(count, parsed)) is kept


@pytest.mark.parametrize(("count", "kept"), [(2, False), (3, True), (8, True), (9, False)])
def test_the_released_band_includes_its_ends(count, kept):
    assert in_band(_vote(count, 10), low=0.3, high=0.8) is kept


def test_a_vote_of_too_few_answers_is_outside():
    assert in_band(_vote(4, 8, total=10))
    assert not in_band(_vote(4, 7, total=10))
    assert in_band(_vote(4, 7, total=10), min_parsed_fraction=0.7)
    assert not in_band(_vote(0, 0, total=10), low=0.0, min_parsed_fraction=0.0)


def test_keeps_indices():
    votes = [_vote(4, 8), None, _vote(8, 8), _vote(4, 7, total=10), _vote(6, 8)]
    assert keep_in_band(votes) == [0, 4]
    assert keep_in_band(votes, low=0.0, high=1.0, min_parsed_fraction=0.0) == [0, 2, 3, 4]
    assert keep_in_band([]) == []


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.4), (-0.1, 0.5), (0.5, 1.1)])
def test_refuses_an_impossible_band(low, high):
    with pytest.raises(ValueError, match=rf"need 0 <= low <= high <= 1, got low={low} and high={high}"):
        in_band(_vote(1, 2), low, high)


def test_histogram_by_hand():
    votes = [_vote(count, 10) for count in range(1, 11)] + [_vote(10, 10), None, _vote(0, 0, total=10)]
    assert confidence_histogram(votes).tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 1, 3]
    assert confidence_histogram(votes, bins=2).tolist() == [4, 7]
    assert confidence_histogram([], bins=3).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="bins: must be at least 1, got 0"):
        confidence_histogram(votes, bins=0)


@pytest.mark.parametrize(
    ("min_kept", "band"),
    [(0, (0.25, 0.75)), (1, (0.25, 0.75)), (2, (0.25, 0.8)), (3, (0.1, 0.8)), (4, (0.1, 1.0)), (99, (0.1, 1.0))],
)
def test_the_band_is_relaxed_no_more_than_needed(min_kept, band):
    votes = [_vote(5, 10), _vote(8, 10), None, _vote(1, 10), _vote(10, 10), _vote(3, 4, total=10)]
    assert relax_band(votes, 0.25, 0.75, min_kept) == band
    assert len(keep_in_band(votes, *band)) >= min(min_kept, 4)


def test_a_band_without_any_vote_stays():
    assert relax_band([None, _vote(0, 0, total=10)], 0.25, 0.75, 3) == (0.25, 0.75)


def test_a_tie_has_no_label_unless_one_is_drawn():
    votes = [Vote("a", 0.5, (("a", 2), ("b", 2)), 4, 4, tied=True), _vote(8, 10)]
    assert keep_in_band(votes, high=0.8) == [1]
    assert keep_in_band(votes, high=0.8, admit_ties=True) == [0, 1]
    assert relax_band(votes, 0.25, 0.75, 1) == (0.25, 0.8)
    assert relax_band(votes, 0.25, 0.75, 1, admit_ties=True) == (0.25, 0.75)
