from dataclasses import replace

import pytest

from answers import batch, item, stored
from visplay.evaluation import compare_stores, judge_answers
from visplay.functional import compare_paired
from visplay.judge import JudgeConfig, Verdict


class _Judge:
    """Says what it was told to, by key."""

    def __init__(self, name="m", **said):
        self.config = JudgeConfig(name)
        self.said = said

    def judge(self, items):
        scores = {item.key: self.said[item.key] for item in items}
        return [
            Verdict(key, s if s is None else s > 0.5, s if isinstance(s, float) else None) for key, s in scores.items()
        ]


def _items(before_or_after, **settings):
    """An item per letter and digit, as in "a0 b1"."""
    return [item(said[0], said[1] == "1", **settings) for said in before_or_after.split()]


def _two(tmp_path, before, after, **settings):
    return stored(tmp_path / "before", b=_items(before, **settings)), stored(
        tmp_path / "after", b=_items(after, **settings)
    )


def _judge(store, judge, benchmark="b"):
    list(judge_answers(judge, store, benchmark, graded=False))


def test_differences_by_hand(tmp_path):
    found = compare_stores(*_two(tmp_path, "a0 b0 c1 d1 e0", "e1 d0 c1 b1 a1"))
    assert list(found) == [("b", "rule_accuracy")]
    result = found["b", "rule_accuracy"]
    assert (result.before, result.after, result.gained, result.lost) == (0.4, 0.8, 3, 1)
    assert result.difference.value == pytest.approx(0.4)
    assert result.p_value == 0.625  # 2 (1 + 4) / 16


def test_samples_by_hand(tmp_path):
    before = stored(tmp_path / "before", b=[item("a", True, [True, False], False), item("b", True, [False] * 2, False)])
    after = stored(tmp_path / "after", b=[item("a", True, [True, True], True), item("b", True, [False] * 2, False)])
    found = compare_stores(before, after)
    assert list(found) == [("b", name) for name in ("rule_accuracy", "pass@1", "majority@2")]
    assert [result.difference.value for result in found.values()] == [0.0, 0.25, 0.5]
    assert (found["b", "pass@1"].gained, found["b", "majority@2"].gained) == (None, 1)


def test_majorities_of_different_numbers_are_not_compared(tmp_path):
    before = stored(tmp_path / "before", b=[item("a", True, [False] * 2, False)])
    after = stored(tmp_path / "after", b=[item("a", True, [True] * 4, True)])
    assert list(compare_stores(before, after)) == [("b", "rule_accuracy"), ("b", "pass@1")]
    once = stored(tmp_path / "once", b=[item("a", True)])
    assert list(compare_stores(before, once)) == [("b", "rule_accuracy")]


def test_averages_by_hand(tmp_path):
    """Large rises by 2/3, from 0 in three items; small falls from 1 to 0 in one item."""
    before = stored(tmp_path / "before", large=_items("a0 b0 c0"), small=_items("a1"), other=_items("a1"))
    after = stored(tmp_path / "after", large=_items("a1 b1 c0"), small=_items("a0"))
    found = compare_stores(before, after)
    assert [name for name, _ in found] == ["large", "small", "macro_average", "micro_average"]
    macro, micro = found["macro_average", "rule_accuracy"], found["micro_average", "rule_accuracy"]
    for result, values in ((macro, (1 / 2, 1 / 3, -1 / 6)), (micro, (1 / 4, 2 / 4, 1 / 4))):
        assert (result.before, result.after, result.difference.value) == pytest.approx(values)
    assert (macro.difference.size, micro.difference.size, macro.gained, macro.p_value) == (2, 4, None, None)


def test_rows_of_a_figure_are_resampled_together(tmp_path):
    keys, known = "abcdefgh", {"category": "VD", "subcategory": "math", "set_id": "1"}
    figures = {key: f"VD/math/1/{place // 2}" for place, key in enumerate(keys)}
    stores = [
        stored(tmp_path / name, b=[item(k, k in right, **known, figure_id=figures[k][-1]) for k in keys])
        for name, right in (("before", ""), ("after", "abef"))
    ]
    sides = {key: 0.0 for key in keys}, {key: float(key in "abef") for key in keys}
    found = compare_stores(*stores)["b", "rule_accuracy"]
    assert found == compare_paired(*sides, figures)
    assert found.difference[:3] != compare_paired(*sides).difference[:3]


def test_planted_shift_is_rejected(tmp_path):
    """The same keys, the gold answers moved by one item."""
    items = [replace(item(key, True), gold=gold) for key, gold in zip("abc", "123", strict=True)]
    moved = [replace(each, gold=gold) for each, gold in zip(items, "312", strict=True)]
    with pytest.raises(
        ValueError, match=r"3 items of 'b' have another question or gold answer, such as 'a': .*shifted"
    ):
        compare_stores(stored(tmp_path / "before", b=items), stored(tmp_path / "after", b=moved))
    asked = [replace(items[0], problem="Another?")]
    with pytest.raises(ValueError, match=r"1 items of 'b' .*\('Question a\?', '1'\) and \('Another\?', '1'\)"):
        compare_stores(stored(tmp_path / "one", b=items), stored(tmp_path / "other", b=asked))


def test_missing_rows_are_counted_or_rejected(tmp_path):
    before, after = _two(tmp_path, "a1 b1 d0", "b0 c0")
    after.append(batch(a="too long"))
    result = compare_stores(before, after)["b", "rule_accuracy"]
    assert (result.missing_before, result.missing_after) == (("c",), ("a", "d"))
    assert (result.difference.value, result.difference.size) == (-1.0, 1)
    with pytest.raises(ValueError, match=r"before lacks 1 items \['c'\] and after 2 items \['a', 'd'\]"):
        compare_stores(before, after, on_missing="reject")


def test_a_missing_benchmark_is_left_out_or_rejected(tmp_path):
    before, after = _two(tmp_path, "a1", "a0")
    after.append(batch(item("a", True), benchmark="c"))
    assert [name for name, _ in compare_stores(before, after)] == ["b"]
    with pytest.raises(ValueError, match=r"only one side has items of \['c'\]"):
        compare_stores(before, after, on_missing="reject")


def test_where_judging_failed_the_rule_stands(tmp_path):
    before, after = _two(tmp_path, "a0 b1 c0", "a0 b1 c0")
    _judge(before, _Judge(a=None, b=None, c=True))
    _judge(after, _Judge(a=True, b=False, c=True))
    result = compare_stores(before, after)["b", "judge_accuracy/m"]
    assert (result.before, result.after) == pytest.approx((2 / 3, 2 / 3))
    assert (result.gained, result.lost) == (1, 1)


def test_graded_scores_and_judges_of_one_side(tmp_path):
    before, after = _two(tmp_path, "a0 b1", "a0 b1")
    _judge(before, _Judge(a=0.2, b=None))
    _judge(after, _Judge(a=0.7, b=0.4))
    _judge(after, _Judge("n", a=True, b=True))
    found = compare_stores(before, after)
    assert list(found) == [("b", "rule_accuracy"), ("b", "judge_accuracy/m")]
    result = found["b", "judge_accuracy/m"]
    assert (result.before, result.after) == pytest.approx((0.6, 0.55))
    assert result.p_value is None
