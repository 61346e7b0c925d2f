import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.early_votes import is_rejected, read_answers, sampled_fraction
from visplay.functional.votes.admission import why_outside
from visplay.functional.votes.majority_vote import is_valid_vote, vote

ANSWERS = st.lists(st.sampled_from(["one", "two", "three", None]), min_size=2, max_size=12)
ENDS = st.tuples(st.sampled_from([0, 0.3, 0.5]), st.sampled_from([0.5, 0.75, 0.8, 1]))


@given(ANSWERS, ENDS, st.integers(0, 12))
def test_what_is_rejected_early_is_rejected_in_the_end(answers, ends, seen):
    """The whole vote may reject what a part of it leaves open, but never keeps what a part of it rejects."""
    counted = vote(answers, str.__eq__)
    rejected = not is_valid_vote(counted) or why_outside(counted.confidence, *ends) is not None
    assert rejected or not is_rejected(answers[:seen], len(answers), *ends)
    assert is_rejected(answers, len(answers), *ends) == rejected


def test_fractions_by_hand(tmp_path):
    """Ten equal answers are above .8 after nine; five of each are never outside; three unparsed are one too many."""
    counts = [[["a", 10]], [["a", 5], ["b", 5]]]
    votes = [{"counts": each, "parsed": 10, "total": 10} for each in counts]
    lines = [json.dumps({"vote": each}) for each in (*votes, None)]
    (tmp_path / "00000.jsonl").write_text("\n".join(lines))
    answers = list(read_answers(tmp_path))
    assert [len(each) for each in answers] == [10, 10]
    assert sampled_fraction(answers, 1, 0.3, 0.8) == pytest.approx(0.95)
    assert sampled_fraction(answers, 5, 0.3, 0.8) == 1
    assert sampled_fraction([[None] * 10], 1, 0.3, 0.8) == pytest.approx(0.3)
