import pytest

from visplay.functional import NO_FIGURE, hallusion_accuracies, mmmu_discipline
from visplay.metrics import HallusionBenchAccuracy, MMMUAccuracy, MMVetScore


def _values(report):
    return {name: mean and pytest.approx(mean.value) for name, mean in report.metrics.items()}


def test_hallusion_delegates():
    keys, verdicts = ["a", "b", "c", "d"], [True, False, True, True]
    pairs, figures = ["p", "p", "q", "q"], ["f", "f", "g", NO_FIGURE]  # two sets, so that there are intervals
    metric = HallusionBenchAccuracy()
    metric.update(keys, verdicts, pairs, figures)
    report = metric.compute()
    assert repr(report.metrics) == repr(hallusion_accuracies([1, 0, 1, 1], pairs, figures))
    assert _values(report) == {"aAcc": 0.75, "qAcc": 0.5, "fAcc": 0.5}
    assert report.counts == {"items": 4, "conflicts": 0, "without_pair": 0, "without_figure": 0}


def test_hallusion_without_ids():
    metric = HallusionBenchAccuracy()
    metric.update(["a", "b"], [True, False])
    metric.update(["c"], [True], figures=["f"])
    report = metric.compute()
    assert _values(report) == {"aAcc": 2 / 3, "qAcc": None, "fAcc": None}
    assert report.counts == {"items": 3, "conflicts": 0, "without_pair": 3, "without_figure": 2}


def test_mmmu_by_discipline():
    ids = ["validation_Art_1", "validation_Music_2", "validation_Math_1"]
    metric = MMMUAccuracy()
    metric.update(ids, [True, False, True], [mmmu_discipline(row_id) for row_id in ids])
    report = metric.compute()
    assert _values(report) == {"accuracy": 2 / 3, "discipline/Art and Design": 0.5, "discipline/Science": 1.0}
    assert report.metrics["discipline/Art and Design"].size == 2
    assert report.counts == {"items": 3, "conflicts": 0, "without_discipline": 0}


@pytest.mark.parametrize("disciplines", [None, ["Science", None], ["Science", ""]])
def test_mmmu_without_ids(disciplines):
    metric = MMMUAccuracy()
    metric.update(["a", "b"], [True, False], disciplines)
    report = metric.compute()
    assert _values(report) == {"accuracy": 0.5, "by_discipline": None}
    assert report.counts["without_discipline"] == (2 if disciplines is None else 1)


def test_mmvet_by_capability():
    metric = MMVetScore()
    metric.update(["a", "b"], [False, True], [0.4, None], [["ocr", "math"], ["ocr"]])
    report = metric.compute()
    assert _values(report) == {"score": 0.7, "capability/math": 0.4, "capability/ocr": 0.7}
    assert report.counts == {"items": 2, "conflicts": 0, "unjudged": 1, "without_capability": 0}


def test_mmvet_without_capabilities():
    metric = MMVetScore()
    metric.update(["a"], [False], [0.4])
    metric.update(["b"], [False], [0.6], [["ocr"]])
    report = metric.compute()
    assert _values(report) == {"score": 0.5, "by_capability": None}
    assert report.counts == {"items": 2, "conflicts": 0, "unjudged": 0, "without_capability": 1}


def test_the_order_of_capabilities_is_no_conflict():
    metric = MMVetScore()
    metric.update(["a", "a"], [True] * 2, [1.0] * 2, [["ocr", "math"], ["math", "ocr"]])
    assert metric.compute().counts["conflicts"] == 0
