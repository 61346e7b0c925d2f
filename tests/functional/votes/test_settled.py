"""When votes are settled: by hand, and against all K votes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visplay.functional import is_settled, is_valid_vote, vote, why_outside

WHOLE = {"low": 0.0, "high": 1.0}


def _same(a, b):
    """Two spellings of a class differ in their digit."""
    return a[0] == b[0]


def test_the_winner():
    """With K = 10 a lead must exceed what is left: 6 of 7 against 1 with 3 left, but not 5 against 2."""
    settings = WHOLE | {"min_parsed_fraction": 0.5}
    assert is_settled(["a"] * 6 + ["b"], 10, **settings)
    assert not is_settled(["a"] * 5 + ["b"] * 2, 10, **settings), "3 more make it a tie"
    assert is_settled(["a"] * 6, 10, **settings), "4 answers of a class not seen yet do not come up to 6"
    assert not is_settled(["a"] * 5, 10, **settings), "5 do"
    assert not is_settled([None] * 9, 10, **settings), "nothing parsed, and the last one may"


def test_the_side_of_the_band():
    """Of 10: 8 alike leave .8 to 1, above; 7 alike and another leave .7 to .9; 5 alike and three others .5 to .7."""
    band = {"low": 0.25, "high": 0.75}
    assert is_settled(["a"] * 8, 10, **band)
    assert not is_settled(["a"] * 7 + ["b"], 10, **band)
    assert is_settled(["a"] * 7 + ["b"], 10, low=0.25, high=0.9)
    assert is_settled([*"aaaaa", "b", "c", "d"], 10, **band)
    assert is_settled(["a"] * 7 + ["b"] * 2, 10, low=0.2, high=0.9)


def test_what_did_not_parse():
    """Of 10, .8 must parse: with 7 of 8 parsed it is open; after 3 failures it is settled that they do not."""
    assert not is_settled(["a"] * 7 + [None], 10, **WHOLE)
    assert is_settled(["a"] * 8 + [None], 10, **WHOLE)
    assert is_settled(["a"] * 6 + [None, " ", None], 10, low=0.9, high=0.95), "invalid, whatever its confidence"


def test_confidence_among_all_answers():
    """8 of 9 parsed of K = 10: among those parsed .8 to .9 if the tenth parses; among all 10 it is the same 8 or 9."""
    answers = ["a"] * 8 + [None]
    assert not is_settled(answers, 10, 0.0, 0.95), "8 / 9 or 9 / 9"
    assert is_settled(answers, 10, 0.0, 0.95, count_unparsed=True), ".8 or .9"


def test_spellings_of_one_class():
    """The silver answer is spelled as most do: 4 against 3 with one left may still be a tie."""
    settings = WHOLE | {"min_parsed_fraction": 0.5}
    assert not is_settled(["a1"] * 4 + ["a2"] * 3, 8, equivalence=_same, **settings)
    assert is_settled(["a1"] * 5 + ["a2"] * 2, 8, equivalence=_same, **settings)


def test_what_is_not_transitive_is_never_settled_early():
    """5 says what 5 m and 5 cm say, which differ."""
    assert not is_settled(["5 m"] * 8 + ["5", "5 cm"], 11, **WHOLE)
    assert is_settled(["5 m"] * 9 + ["5"], 11, **WHOLE)
    assert is_settled(["5 m"] * 8 + ["5", "5 cm"], 10, **WHOLE), "nothing is left"


def test_too_many_answers():
    with pytest.raises(ValueError, match="total: 2 must be at least the number of answers, got 3"):
        is_settled(["a"] * 3, 2, **WHOLE)


@given(
    answers=st.lists(st.sampled_from(["a1", "a1", "a1", "a2", "b1", "b2", "c1", None]), min_size=2, max_size=16),
    ends=st.tuples(st.integers(0, 10), st.integers(0, 10)).map(sorted),
    parsed=st.sampled_from([0.0, 0.5, 0.8, 1.0]),
    count_unparsed=st.booleans(),
)
def test_the_first_votes_decide_as_all_votes(answers, ends, parsed, count_unparsed):
    """Wherever it says settled, the votes taken and all K give the same answer, validity, tie and side of the band."""
    low, high = (end / 10 for end in ends)

    def verdict(taken):
        found = vote(taken, _same, count_unparsed=count_unparsed)
        valid = is_valid_vote(found, parsed)
        return found.answer, valid, found.tied, why_outside(found.confidence, low, high) if valid else None

    for n in range(len(answers)):
        settings = {"count_unparsed": count_unparsed, "min_parsed_fraction": parsed}
        if is_settled(answers[:n], len(answers), low, high, _same, **settings):
            assert verdict(answers[:n]) == verdict(answers)
