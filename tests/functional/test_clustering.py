import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from sklearn.cluster import AgglomerativeClustering

from visplay.functional import bleu_distances, cluster, cluster_shares

WORDS = ["how", "many", "red", "blue", "dots", "are", "there", "is", "the", "what"]
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join), max_size=9)


def _nltk_distance(one: str, other: str) -> float:
    smoothing = SmoothingFunction().method1
    scores = [
        sentence_bleu([reference.lower().split()], hypothesis.lower().split(), smoothing_function=smoothing)
        for hypothesis, reference in ((one, other), (other, one))
    ]
    return 1.0 - sum(scores) / 2.0


def test_distance_by_hand():
    # Precisions 4/5, 3/4, 2/3, 1/2 in both directions and no brevity penalty.
    expected = 1.0 - (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    np.testing.assert_allclose(bleu_distances(["a b c d e", "A b  c d f"]), [[0, expected], [expected, 0]], atol=1e-12)


def test_brevity_and_smoothing_by_hand():
    # "a b" against "a b c": all it has matches, of no 3-grams and 4-grams 0.1 counts; brevity exp(1 - 3/2).
    forward = math.exp(1 - 3 / 2) * (1 * 1 * 0.1 * 0.1) ** 0.25
    backward = (2 / 3 * 1 / 2 * 0.1 * 0.1) ** 0.25
    assert bleu_distances(["a b", "a b c"])[0, 1] == pytest.approx(1 - (forward + backward) / 2, abs=1e-12)


def test_repeated_words_match_only_as_often_as_they_are_there():
    forward = (1 / 3 * 0.1 / 2 * 0.1 / 1 * 0.1) ** 0.25
    backward = math.exp(1 - 3) * (1 * 0.1 * 0.1 * 0.1) ** 0.25
    assert bleu_distances(["a a a", "a"])[0, 1] == pytest.approx(1 - (forward + backward) / 2, abs=1e-12)


@pytest.mark.parametrize("text", ["", "why", "how many", "how many dots are there in all"])
def test_equal_texts_have_distance_zero_however_short(text):
    assert bleu_distances([text, f" {text.upper()}\n", "zebra"]).tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 0]]


def test_no_texts():
    assert bleu_distances([]).shape == (0, 0)
    assert cluster([]).tolist() == []
    assert cluster(["alone"]).tolist() == [0]


@given(TEXTS)
def test_agrees_with_nltk(texts):
    distances = bleu_distances(texts)
    assert np.array_equal(distances, distances.T)
    assert ((distances >= 0) & (distances <= 1)).all()
    for i, one in enumerate(texts):
        for j, other in enumerate(texts):
            expected = 0.0 if one.split() == other.split() else _nltk_distance(one, other)
            assert distances[i, j] == pytest.approx(expected, abs=1e-9)


@given(TEXTS.filter(lambda texts: len(texts) > 1), st.sampled_from([0.2, 0.5, 0.8, 1.0]))
def test_clusters_agree_with_scikit_learn(texts, threshold):
    reference = AgglomerativeClustering(
        n_clusters=None, distance_threshold=threshold, metric="precomputed", linkage="average"
    ).fit_predict(bleu_distances(texts))
    labels = cluster(texts, threshold)
    assert np.array_equal(labels[:, None] == labels, reference[:, None] == reference)


def test_the_threshold_itself_keeps_apart():
    texts = ["zebra", "what is this"]
    assert bleu_distances(texts)[0, 1] == 1.0
    assert cluster(texts, threshold=1.0).tolist() != [0, 0]
    assert cluster(texts, threshold=1.01).tolist() == [0, 0]


def test_shares_by_hand():
    assert cluster_shares(np.array([2, 0, 2, 1, 2])).tolist() == [0.6, 0.2, 0.6, 0.2, 0.6]
    assert cluster_shares(np.array([], dtype=int)).tolist() == []
    with pytest.raises(ValueError, match=r"labels: must have shape \(n,\), got \(1, 2\)"):
        cluster_shares(np.zeros((1, 2), dtype=int))
