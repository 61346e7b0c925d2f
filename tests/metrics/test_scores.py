import pytest

from answers import batch, item
from visplay.metrics import BenchmarkScores, SuiteScores
from visplay.metrics.scores import figure_id, pair_id

SAMPLED = [
    item("a", True, [True, True], majority=True),
    item("b", False, [True, False], majority=True),
    item("c", None, [False, None]),
    item("d", True, [True, True], majority=True),
]
FIGURES = {
    "a": (True, {"category": "VD", "set_id": "1", "figure_id": "1", "question_id": "0", "visual_input": "1"}),
    "b": (True, {"category": "VD", "set_id": "1", "figure_id": "2", "question_id": "0", "visual_input": "1"}),
    "c": (False, {"category": "VD", "set_id": "1", "figure_id": "1", "question_id": "1", "visual_input": "1"}),
    "d": (True, {"category": "VD", "set_id": "1", "figure_id": "2", "question_id": "1", "visual_input": "1"}),
    "e": (False, {"category": "VS", "set_id": "1", "figure_id": "0", "question_id": "0", "visual_input": "0"}),
}


def _values(report):
    return {name: mean and pytest.approx(mean.value) for name, mean in report.metrics.items()}


def _figures(without: str = "", of: str = ""):
    items = {key: (right, {"subcategory": "math"} | metadata) for key, (right, metadata) in FIGURES.items()}
    items.get(of, ("", {}))[1].pop(without, None)
    return [item(key, right, **metadata) for key, (right, metadata) in items.items()]


def _scored(scoring, items, judges=()):
    scores = BenchmarkScores(scoring=scoring, judges=judges)
    scores.update(batch(*items))
    return scores


def test_metrics_by_hand():
    scores = BenchmarkScores(samples=2)
    scores.update(batch(*SAMPLED[:3], e="no image"))
    scores.update(batch(SAMPLED[3], f="too long"))
    report = scores.compute()
    expected = {"rule_accuracy": 2 / 4, "wrong_claims": 1 / 4, "pass@1": (1 + 0.5 + 0 + 1) / 4, "majority": 3 / 4}
    assert _values(report) == expected
    assert report.counts == {"items": 4, "conflicts": 0, "skipped": 2, "samples": 2}


def test_rows_that_share_a_figure_are_resampled_together_in_every_metric():
    found = _scored("hallusionbench", [item(key, key in "ab", **FIGURES[key][1], subcategory="m") for key in "abcd"])
    metrics = found.compute().metrics
    right, wrong = metrics["rule_accuracy"], metrics["wrong_claims"]
    assert (wrong.low, wrong.high) == pytest.approx((1 - right.high, 1 - right.low))


def test_a_row_that_comes_again_counts_once():
    once, twice = BenchmarkScores(samples=2), BenchmarkScores(samples=2)
    once.update(batch(*SAMPLED, e="no image"))
    for part in (SAMPLED[:3], SAMPLED[1:]):
        twice.update(batch(*part, e="no image"))
    assert twice.compute() == once.compute()


def test_hallusionbench_by_hand():
    """Pairs: VD 0 is right, VD 1 and VS 0 are not; figures: 2 is right, 1 is not, and one item shows none."""
    report = _scored("hallusionbench", _figures()).compute()
    expected = {"rule_accuracy": 3 / 5, "wrong_claims": 2 / 5, "aAcc": 3 / 5, "qAcc": 1 / 3, "fAcc": 1 / 2}
    assert _values(report) == expected
    assert [report.metrics[name].size for name in ("aAcc", "qAcc", "fAcc")] == [5, 3, 2]


@pytest.mark.parametrize(
    ("part", "unavailable"),
    [("category", {"qAcc", "fAcc"}), ("question_id", {"qAcc"}), ("figure_id", {"fAcc"})],
)
def test_hallusionbench_without_a_part_of_an_id(part, unavailable):
    metrics = _scored("hallusionbench", _figures(without=part, of="c")).compute().metrics
    assert {name for name, mean in metrics.items() if mean is None} == unavailable


def test_ids_of_hallusionbench():
    metadata = {"category": "VS", "subcategory": "map", "set_id": "3", "question_id": "0", "figure_id": "2"}
    assert (pair_id(metadata), figure_id(metadata)) == ("VS/map/3/0", "VS/map/3/2")
    assert figure_id(metadata | {"visual_input": "0"}) == ""
    assert (pair_id({}), figure_id({})) == (None, None)


def test_rows_of_a_figure_are_resampled_together():
    """Four of one figure are right, four of another are wrong: both ends of the interval are reached."""
    known = {"category": "VD", "subcategory": "math", "set_id": "1", "visual_input": "1"}
    items = [item(str(n), n < 4, **known, question_id=str(n), figure_id=str(n // 4)) for n in range(8)]
    assert _scored("hallusionbench", items).compute().metrics["rule_accuracy"][:3] == (0.5, 0.0, 1.0)
    alone = [item(str(n), n < 4) for n in range(8)]
    assert _scored("accuracy", alone).compute().metrics["rule_accuracy"].low > 0


def test_mmmu_by_discipline():
    items = [item("a", True, id="validation_Art_1"), item("b", False, id="validation_Music_2")]
    items.append(item("c", True, id="validation_Math_1"))
    expected = {"rule_accuracy": 2 / 3, "wrong_claims": 1 / 3}
    disciplines = {"discipline/Art and Design": 1 / 2, "discipline/Science": 1.0}
    assert _values(_scored("mmmu", items).compute()) == expected | disciplines
    for unknown in (item("d", True), item("d", True, id="17")):
        assert _scored("mmmu", [*items, unknown]).compute().metrics["by_discipline"] is None


@pytest.mark.parametrize("listed", ["ocr,math", "['ocr', 'math']", '["ocr", "math"]'])
def test_mm_vet_is_graded(listed):
    """The judge gives 0.4, and nothing for the second item, which is right by rule."""
    items = [item("a", False, capability=listed), item("b", True, capability="ocr")]
    scores = _scored("mm_vet", items, judges=["glm"])
    scores.update_judged("glm", items, [0.4, None])
    report = scores.compute()
    judged = {"judge_accuracy/glm": 0.7, "capability/ocr/glm": 0.7, "capability/math/glm": 0.4}
    assert _values(report) == {"rule_accuracy": 0.5, "wrong_claims": 0.5} | judged
    assert report.counts == {"items": 2, "conflicts": 0, "skipped": 0, "samples": 0, "unjudged/glm": 1}


def test_mm_vet_without_capabilities():
    items = [item("a", False, capability="ocr"), item("b", True)]
    scores = _scored("mm_vet", items, judges=["glm"])
    scores.update_judged("glm", items, [0.4, 0.5])
    metrics = scores.compute().metrics
    assert metrics["judge_accuracy/glm"].value == pytest.approx(0.45)
    assert metrics["by_capability/glm"] is None


def test_judges_stand_side_by_side():
    items = [item("a", True), item("b", False)]
    scores = _scored("accuracy", items, judges=["glm", "other"])
    scores.update_judged("glm", items, [True, True])
    scores.update_judged("other", items, [None, None])
    report = scores.compute()
    assert [report.metrics[f"judge_accuracy/{judge}"].value for judge in ("glm", "other")] == [1.0, 0.5]
    assert (report.counts["unjudged/glm"], report.counts["unjudged/other"]) == (0, 2)


def test_averages_by_hand():
    """Large is 2/3 right by rule and 1/3 by the judge, small is 0 and 1."""
    large, small = [item("a", True), item("b", True), item("c", False)], [item("a", False)]
    suite = SuiteScores({name: BenchmarkScores(judges=["glm"]) for name in ("large", "small")}, ["glm"])
    suite.update(batch(*large, benchmark="large", d="no image"))
    suite.update(batch(*small, benchmark="small"))
    suite.update_judged("glm", "large", large, [None, False, False])
    suite.update_judged("glm", "small", small, [True])
    reports = suite.compute()
    assert list(reports) == ["large", "small", "macro_average", "micro_average"]
    assert _values(reports["macro_average"]) == {"rule_accuracy": 1 / 3, "judge_accuracy/glm": 2 / 3}
    assert _values(reports["micro_average"]) == {"rule_accuracy": 2 / 4, "judge_accuracy/glm": 2 / 4}
    assert reports["large"].counts == {"items": 3, "conflicts": 0, "skipped": 1, "samples": 0, "unjudged/glm": 1}
    assert reports["micro_average"].counts == {"items": 4, "conflicts": 0, "benchmarks": 2}


def test_one_benchmark_has_no_average():
    suite = SuiteScores({"b": BenchmarkScores()})
    suite.update(batch(item("a", True)))
    assert list(suite.compute()) == ["b"]


def test_unknown_scoring():
    with pytest.raises(ValueError, match="scoring: must be one of .*'mm_vet'.* got 'mmvet'"):
        BenchmarkScores(scoring="mmvet")
