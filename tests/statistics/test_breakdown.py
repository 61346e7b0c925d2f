from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visplay.functional import (
    NO_FIGURE,
    Bootstrap,
    all_right_fraction,
    hallusion_accuracies,
    link_rows,
    mean_by_group,
    mmmu_discipline,
)

FEW = Bootstrap(resamples=5)
TABLE = st.lists(st.tuples(st.booleans(), st.sampled_from("pqrs"), st.sampled_from("fgh")), min_size=1, max_size=25)


def test_hallusion_by_hand():
    """Two sets; the second pair of the first set is wrong on one figure, the text-only item is wrong."""
    items = [
        (1, "s1 q1", "s1 f1"),
        (1, "s1 q1", "s1 f2"),
        (1, "s1 q2", "s1 f1"),
        (0, "s1 q2", "s1 f2"),
        (0, "s2 q1", NO_FIGURE),
        (1, "s2 q1", "s2 f1"),
        (1, "s2 q2", "s2 f1"),
    ]
    verdicts, pairs, figures = zip(*items, strict=True)
    measures = hallusion_accuracies(verdicts, pairs, figures, FEW)
    assert measures["aAcc"].value == pytest.approx(5 / 7)
    assert (measures["qAcc"].value, measures["qAcc"].size) == (2 / 4, 4)
    assert (measures["fAcc"].value, measures["fAcc"].size) == (pytest.approx(2 / 3), 3)


def test_missing_ids_are_unavailable():
    measures = hallusion_accuracies([1, 0], ["p", None], ["f", "g"], FEW)
    assert measures["qAcc"] is None
    assert measures["fAcc"].value == 0.5
    assert measures["aAcc"].value == 0.5


def test_no_figure_at_all_is_unavailable():
    assert hallusion_accuracies([1, 0], ["p", "q"], [NO_FIGURE] * 2, FEW)["fAcc"] is None


def test_graded_scores_are_rejected():
    with pytest.raises(ValueError, match=r"verdicts: must be 0 or 1, got 0\.5"):
        hallusion_accuracies([1, 0.5], ["p", "q"], ["f", "g"])


def test_whole_sets_are_resampled():
    """Two sets of which one is all right and one all wrong: no resample lies between, whatever the measure."""
    verdicts, pairs = [1, 1, 1, 1, 0, 0], ["p", "p", "q", "q", "r", "r"]
    figures = ["f", "g", "f", "g", "h", "i"]
    measures = hallusion_accuracies(verdicts, pairs, figures, Bootstrap(resamples=400))
    assert all((measure.low, measure.high) == (0.0, 1.0) for measure in measures.values())
    assert measures["qAcc"].value == pytest.approx(2 / 3)


@given(TABLE)
def test_hallusion_against_dictionaries(items):
    verdicts, pairs, figures = (list(column) for column in zip(*items, strict=True))
    measures = hallusion_accuracies(verdicts, pairs, figures, FEW)
    for name, column in (("qAcc", pairs), ("fAcc", figures)):
        groups = defaultdict(list)
        for verdict, unit in zip(verdicts, column, strict=True):
            groups[unit].append(verdict)
        assert measures[name].value == pytest.approx(np.mean([all(group) for group in groups.values()]))
    assert measures["qAcc"].value <= 1.0
    assert measures["aAcc"].value == pytest.approx(np.mean(verdicts))


def test_links_are_transitive():
    assert link_rows(["p", "p", "q", "r", "r"], ["f", "g", "g", "h", "f"]) == [0, 0, 0, 0, 0]
    assert link_rows(["p", "p", "q", "r"], ["f", "g", "g", "h"]) == [0, 0, 0, 1]


def test_one_id_in_two_columns_links_nothing():
    assert len(set(link_rows(["x", "y"], ["y", "z"]))) == 2


def test_missing_and_empty_ids_link_nothing():
    assert len(set(link_rows([None, None, "", ""], [None, "", "", None]))) == 4
    assert link_rows([], []) == []


@pytest.mark.parametrize("columns", [(), (["p"], ["f", "g"])])
def test_columns_of_one_length(columns):
    with pytest.raises(ValueError, match="columns: must have one length"):
        link_rows(*columns)


@given(TABLE)
def test_links_against_repeated_merging(items):
    clusters = [{item} for item in range(len(items))]
    for one in range(len(items)):
        for other in range(one):
            if items[one][1] == items[other][1] or items[one][2] == items[other][2]:
                merged = clusters[one] | clusters[other]
                for item in merged:
                    clusters[item] = merged
    _, pairs, figures = zip(*items, strict=True)
    labels = link_rows(pairs, figures)
    for one in range(len(items)):
        for other in range(one):
            assert (labels[one] == labels[other]) == (other in clusters[one])


def test_all_right_without_units():
    assert all_right_fraction([], []) is None
    assert all_right_fraction([1, 1], ["p", None]) is None
    with pytest.raises(ValueError, match="zip"):
        all_right_fraction([1], ["p", "q"])


def test_groups_by_hand():
    means = mean_by_group([1.0, 0.5, 0.0], [["rec"], ["ocr", "math", "ocr"], ["ocr", "rec"]], bootstrap=FEW)
    assert {name: (mean.value, mean.size) for name, mean in means.items()} == {
        "math": (0.5, 1),
        "ocr": (0.25, 2),
        "rec": (0.5, 2),
    }
    assert list(means) == sorted(means)


@pytest.mark.parametrize("groups", [[["a"], None], [["a"], []], [None, None]])
def test_groups_of_every_row_must_be_known(groups):
    assert mean_by_group([1.0, 0.0], groups) is None


def test_no_rows_have_no_groups():
    assert mean_by_group([], []) is None


def test_groups_resample_clusters():
    means = mean_by_group([1.0, 1.0, 0.0, 0.0], [["a"]] * 4, ["f", "f", "g", "g"], Bootstrap(resamples=200))
    assert means["a"][1:3] == (0.0, 1.0)


@pytest.mark.parametrize(
    ("row_id", "discipline"),
    [
        ("validation_Accounting_1", "Business"),
        ("test_Diagnostics_and_Laboratory_Medicine_27", "Health and Medicine"),
        ("dev_Architecture_and_Engineering_3", "Tech and Engineering"),
        ("validation_Alchemy_1", None),
        ("Accounting_1", None),
        ("validation_Accounting", None),
        ("12", None),
    ],
)
def test_disciplines_of_ids(row_id, discipline):
    assert mmmu_discipline(row_id) == discipline
