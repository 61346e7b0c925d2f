import pytest
from hypothesis import given
from hypothesis import strategies as st

from visplay.functional import agreement, is_valid_vote, vote
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


@pytest.mark.parametrize("one", [["yes", "no"], ["3", "8"], ["3", "3", "8", "8"], ["a", "b", "c", "c", "b"]])
def test_a_tie_between_answers_that_differ_is_no_label(one):
    """Drawn, and not always the one that is shorter, less or first in alphabetical order."""
    names = {vote(one, seed=seed).answer for seed in range(20)}
    assert names == ({"b", "c"} if "a" in one else set(one))
    for seed in range(20):
        result = vote(one, seed=seed)
        assert result.tied
        assert result.margin == 0.0
        assert result.counts[0][0] == result.answer
        assert result == vote(one[::-1], seed=seed)


@pytest.mark.parametrize("clear", [["yes", "no", "yes"], ["1/2", "0.5"], ["B", "B. red", "red"], ["7"], [None]])
def test_no_tie(clear):
    assert not vote(clear).tied


def test_a_class_is_named_by_its_most_frequent_form():
    same = {"aa", "b", "cc"}
    together = lambda one, other: {one, other} <= same  # noqa: E731
    assert vote(["aa", "cc", "cc", "b", "d"], together).counts == (("cc", 4), ("d", 1))
    assert vote(["aa", "b", "cc"], together).counts == (("b", 3),)
    assert vote(["aa", "cc"], together).counts == (("aa", 2),)


@pytest.mark.parametrize(
    ("answers", "names", "confidence", "counts"),
    [
        (["A"] * 4 + ["A. red"] * 3 + ["red"] * 3, {"a. red"}, 1.0, [10]),
        (["5 m"] * 3 + ["5"] + ["5 cm"] * 3, {"5 m", "5 cm"}, 4 / 7, [4, 3]),
        (["5 m"] * 3 + ["5"] + ["5 cm"] * 2, {"5 m"}, 4 / 6, [4, 2]),
        (["(1,2)", "(2,1)", "1,2"], {"(1,2)", "(2,1)"}, 2 / 3, [2, 1]),
        (["B. red"] * 2 + ["red"] * 3 + ["C. red"], {"b. red"}, 5 / 6, [5, 1]),
    ],
)
def test_the_confidence_is_what_the_reward_pays(answers, names, confidence, counts):
    """An answer that says less agrees with two that contradict each other: it votes for both, and names neither."""
    assert {vote(answers, seed=seed).answer for seed in range(20)} == names
    result = vote(answers)
    assert result.confidence == confidence
    assert result.confidence == pytest.approx(agreement(answers, result.answer).mean().item())
    assert [count for _, count in result.counts] == counts
    assert result.tied == (len(names) > 1)


def test_classes_are_not_connected_components():
    chain = {frozenset(("p", "q")), frozenset(("q", "r")), frozenset(("r", "s"))}
    related = lambda one, other: frozenset((one, other)) in chain  # noqa: E731
    assert vote(["p", "r", "s"], related).counts == (("r", 2), ("p", 1))
    assert vote(["p", "q", "r"], related).counts == (("q", 3),)
    assert vote(["p", "q", "r", "s", "s"], related).counts == (("r", 4), ("p", 1))


def test_compares_each_pair_of_distinct_forms_once():
    compared = []

    def never(one: str, other: str) -> bool:
        compared.append((one, other))
        return False

    vote(["2", "2.0", "2", "3", "3.00", None, "4"], never)
    assert compared == [("2", "3"), ("2", "4"), ("3", "4")]


@given(ANSWERS, st.randoms(use_true_random=False))
def test_order_of_the_answers_does_not_matter(answers, random):
    shuffled = random.sample(answers, len(answers))
    assert vote(shuffled) == vote(answers)


@given(ANSWERS, st.integers())
def test_the_confidence_is_the_mean_agreement_with_the_silver_answer(answers, seed):
    result = vote(answers, seed=seed)
    assert sum(count for _, count in result.counts) == result.parsed
    if result.parsed:
        parsed = [answer for answer in answers if answer is not None]
        assert result.confidence == pytest.approx(agreement(parsed, result.answer).mean().item())
        assert vote(answers, count_unparsed=True, seed=seed).confidence == pytest.approx(
            agreement(answers, result.answer).mean().item()
        )


@given(
    st.lists(st.sampled_from("abcdefg"), min_size=1),
    st.sets(st.frozensets(st.sampled_from("abcdefg"), min_size=2, max_size=2)),
)
def test_any_relation_gives_the_argmax_and_an_orderless_partition(answers, related):
    agree = lambda one, other: one == other or frozenset((one, other)) in related  # noqa: E731
    result = vote(answers, agree)
    assert result == vote(sorted(answers, reverse=True), agree)
    support = {name: sum(agree(name, answer) for answer in answers) for name in answers}
    best = [name for name, count in support.items() if count == max(support.values())]
    assert result.answer in best
    assert result.confidence == max(support.values()) / len(answers) == result.counts[0][1] / len(answers)
    assert sum(count for _, count in result.counts) == result.parsed == len(answers)
    assert [count for _, count in result.counts] == sorted((count for _, count in result.counts), reverse=True)
    assert result.tied == any(not agree(result.answer, other) for other in best)


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
