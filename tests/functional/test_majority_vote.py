import pytest
from hypothesis import given
from hypothesis import strategies as st

from visplay.functional import is_valid_vote, vote
from visplay.types import Vote

ANSWERS = st.lists(st.sampled_from(["1/2", "0.5", "50%", "50", "B", "(b)", "B. red", "red", "Red.", "x=3", "3", None]))


def test_counts_by_hand():
    result = vote(["1/2", "0.5", "0.50", "3", None])
    assert result == Vote(answer="0.5", confidence=0.75, counts=(("0.5", 3), ("3", 1)), parsed=4, total=5)
    assert result.parsed_fraction == 0.8


def test_nothing_parsed():
    assert vote([None, None]) == Vote(answer=None, confidence=0.0, counts=(), parsed=0, total=2)
    assert vote([]) == Vote(answer=None, confidence=0.0, counts=(), parsed=0, total=0)


def test_the_text_none_is_an_answer_but_none_and_blank_never_vote():
    assert vote([None, None, None, "  ", "None"]).counts == (("none", 1),)


def test_unanimous():
    assert vote(["B", "(B)", "b."]) == Vote("b", 1.0, (("b", 3),), 3, 3)


def test_answers_with_no_in_them_do_not_merge():
    assert vote(["piano keys", "casino sign"]).counts == (("piano keys", 1), ("casino sign", 1))


def test_ties_go_to_the_shorter_name_then_the_alphabet():
    assert vote(["circle", "dot", "circle", "dot"]).answer == "dot"
    assert vote(["red", "dot", "tan"]).counts == (("dot", 1), ("red", 1), ("tan", 1))


def test_a_class_is_named_by_its_most_frequent_form():
    same = {"aa", "b", "cc"}
    together = lambda one, other: {one, other} <= same  # noqa: E731
    assert vote(["aa", "cc", "cc", "b", "d"], together).counts == (("cc", 4), ("d", 1))
    assert vote(["aa", "b", "cc"], together).counts == (("b", 3),)
    assert vote(["aa", "cc"], together).counts == (("aa", 2),)


def test_classes_are_connected_components():
    chain = {frozenset(("p", "q")), frozenset(("q", "r"))}
    assert vote(["p", "r", "s"], lambda one, other: frozenset((one, other)) in chain).counts[0] == ("p", 1)
    assert vote(["p", "q", "r", "s"], lambda one, other: frozenset((one, other)) in chain).counts == (
        ("p", 3),
        ("s", 1),
    )


def test_compares_distinct_forms_only():
    compared = []

    def never(one: str, other: str) -> bool:
        compared.append({one, other})
        return False

    vote(["2", "2.0", "2", "3", "3.00", None], never)
    assert compared == [{"2", "3"}]


@given(ANSWERS, st.randoms(use_true_random=False))
def test_order_of_the_answers_does_not_matter(answers, random):
    shuffled = random.sample(answers, len(answers))
    assert vote(shuffled) == vote(answers)


@given(st.lists(st.sampled_from("abcdefg")), st.sets(st.frozensets(st.sampled_from("abcdefg"), min_size=2, max_size=2)))
def test_any_symmetric_relation_gives_an_orderless_partition(answers, related):
    result = vote(answers, lambda one, other: frozenset((one, other)) in related)
    assert result == vote(sorted(answers, reverse=True), lambda one, other: frozenset((one, other)) in related)
    assert sum(count for _, count in result.counts) == result.parsed == len(answers)
    assert [count for _, count in result.counts] == sorted((count for _, count in result.counts), reverse=True)
    assert result.confidence == (result.counts[0][1] / len(answers) if answers else 0.0)


@pytest.mark.parametrize(("parsed", "valid"), [(10, True), (8, True), (7, False), (0, False)])
def test_too_few_parsed_answers_make_a_vote_invalid(parsed, valid):
    assert is_valid_vote(vote(["1"] * parsed + [None] * (10 - parsed))) is valid
    assert is_valid_vote(vote(["1"] * parsed + [None] * (10 - parsed)), min_parsed_fraction=0.0) is (parsed > 0)


def test_the_share_of_all_answers_by_hand():
    answers = ["2", "2", "2", "3", None, None]
    assert vote(answers).confidence == 3 / 4
    assert vote(answers, count_unparsed=True).confidence == 3 / 6
    assert vote([None], count_unparsed=True).confidence == 0.0


@pytest.mark.parametrize(
    ("answers", "margin"), [("aaab", 2 / 4), ("aabb", 0.0), ("aa", 1.0), ("abbbcc", 1 / 6), ("", 0.0)]
)
def test_margin_by_hand(answers, margin):
    assert vote([*answers, None]).margin == pytest.approx(margin)
