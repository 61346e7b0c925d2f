import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from sklearn.cluster import AgglomerativeClustering

from visplay.functional import bleu_distances, cluster, cluster_fractions
from visplay.functional.rewards import clustering as module
from visplay.functional.rewards.clustering import cluster_groups

WORDS = ["how", "many", "Red", "blue", "dots", "are", "there", "is", "the", "größer", "İstanbul", "いくつ", "Σ²"]
TEXT = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join) | st.text(max_size=9)
SHORT = st.lists(st.sampled_from(["a", "A", "b"]), max_size=3).map("\u3000".join)
POOL = st.lists(TEXT | SHORT, min_size=1, max_size=9)
TEXTS = POOL.flatmap(lambda pool: st.lists(st.sampled_from(pool), max_size=9)) | POOL
GROUPS = POOL.flatmap(lambda pool: st.lists(st.lists(st.sampled_from(pool), max_size=8), max_size=6))
THRESHOLDS = st.sampled_from([-0.5, 0.0, 0.2, 0.5, 0.8, 1.0, 1.5])


def _nltk_bleu(hypothesis: list[str], reference: list[str]) -> float:
    return sentence_bleu([reference], hypothesis, smoothing_function=SmoothingFunction().method1)


def _plain_bleu(hypothesis: list[str], reference: list[str]) -> float:
    """Sentence BLEU-4 with smoothing 1, from its definition."""
    logarithms = []
    for order in range(1, 5):
        here, there = (
            Counter(tuple(words[start : start + order]) for start in range(len(words) - order + 1))
            for words in (hypothesis, reference)
        )
        matches = (here & there).total()
        if order == 1 and matches == 0:
            return 0.0
        logarithms.append(math.log((matches or 0.1) / max(here.total(), 1)))
    brevity = min(1.0, math.exp(1 - len(reference) / len(hypothesis)))
    return brevity * math.exp(sum(logarithms) / 4)


def _plain_distances(texts, bleu):
    words = [text.lower().split() for text in texts]
    return [[0.0 if one == two else 1 - (bleu(one, two) + bleu(two, one)) / 2 for two in words] for one in words]


def _same_clusters(labels, others):
    return np.array_equal(labels[:, None] == labels, others[:, None] == others)


def _scikit_learn(texts, threshold):
    model = AgglomerativeClustering(
        n_clusters=None, distance_threshold=threshold, metric="precomputed", linkage="average"
    )
    return model.fit_predict(bleu_distances(texts))


def _make_questions(count: int, seed: int) -> list[str]:
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, draw.integers(0, 9))) for _ in range(count)]


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
    assert cluster_groups([]) == []
    assert [labels.tolist() for labels in cluster_groups([[], [""], [], ["alone"]])] == [[], [0], [], [0]]


def test_the_longest_text_there_may_be():
    longest = "a " * 55107
    assert bleu_distances([longest, longest + "\n", "b"]).tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 0]]
    assert bleu_distances([longest, "b " + longest[2:]])[0, 1] == pytest.approx(1 / 55107, rel=0.01)
    with pytest.raises(ValueError, match="texts: must have at most 55107 tokens each, got 55108"):
        bleu_distances(["b", longest + "a"])


@given(TEXTS)
def test_distances_agree_with_the_definition_and_with_nltk(texts):
    distances = bleu_distances(texts)
    assert np.array_equal(distances, distances.T)
    assert ((distances >= 0) & (distances <= 1)).all()
    for bleu in (_plain_bleu, _nltk_bleu):
        expected = np.reshape(_plain_distances(texts, bleu), distances.shape)
        np.testing.assert_allclose(distances, expected, rtol=0, atol=1e-9)


@given(TEXTS.filter(lambda texts: len(texts) > 1), THRESHOLDS.filter(lambda threshold: threshold >= 0))
def test_clusters_agree_with_scikit_learn(texts, threshold):
    assert _same_clusters(cluster(texts, threshold), _scikit_learn(texts, threshold))


@given(GROUPS, THRESHOLDS)
def test_groups_at_once_have_the_clusters_of_one_by_one(groups, threshold):
    for labels, group in zip(cluster_groups(groups, threshold), groups, strict=True):
        assert labels.dtype == np.int64
        assert set(labels) == set(range(len(set(labels))))
        assert _same_clusters(labels, cluster(group, threshold))


def test_more_texts_than_a_block_agree_with_the_definition_and_scikit_learn():
    texts = _make_questions(589, seed=5)
    assert module._BLOCK_PAIRS < 589**2 / 1.3
    assert module._TILE < 100
    distances, some = bleu_distances(texts), [0, 1, 63, 64, 128, 443, 444, 447, 448, 512, 588]
    assert np.array_equal(distances, distances.T)
    expected = _plain_distances([texts[index] for index in some], _plain_bleu)
    np.testing.assert_allclose(distances[np.ix_(some, some)], expected, rtol=0, atol=1e-9)
    assert _same_clusters(cluster(texts), _scikit_learn(texts, 0.5))


@pytest.mark.parametrize("small", [0, 2**24])
@pytest.mark.parametrize("pairs", [1, 5, 40, 80, 130, 400])
def test_blocks_and_tables_do_not_matter(pairs, small, monkeypatch):
    texts = _make_questions(40, seed=6)
    groups = [texts[start : start + 5] for start in range(0, 40, 5)]
    distances, labels = bleu_distances(texts), cluster_groups(groups)
    monkeypatch.setattr(module, "_BLOCK_PAIRS", pairs)
    monkeypatch.setattr(module, "_TILE", pairs)
    monkeypatch.setattr(module, "_SMALL", small)
    assert np.array_equal(bleu_distances(texts), distances)
    for one, other in zip(cluster_groups(groups), labels, strict=True):
        assert np.array_equal(one, other)


def test_tables_do_not_matter_to_texts_of_many_lengths():
    draw = np.random.default_rng(7)
    texts = [" ".join(draw.choice(["a", "b", "c"], count)) for count in range(0, 60, 2)]
    texts += [" ".join(draw.choice(["a", "b", "c"], 30)) for _ in range(100)]
    distances, some = bleu_distances(texts), range(0, len(texts), 7)
    assert np.array_equal(distances[30:, 30:], bleu_distances(texts[30:]))
    expected = _plain_distances([texts[index] for index in some], _plain_bleu)
    np.testing.assert_allclose(distances[np.ix_(some, some)], expected, rtol=0, atol=1e-9)
    assert _same_clusters(cluster(texts), _scikit_learn(texts, 0.5))


def test_linkage_decides_where_nearness_is_not_transitive(monkeypatch):
    # In the first group the outer two are near the middle, not each other; in the second all three are near.
    chain = ["a b c d e f g h", "a b c d e f g x", "z b c d e f g x"]
    alike = ["a b c d e f g h", "a b c d e f g x", "a b c d e f g y"]
    near = bleu_distances(chain) < 0.3
    assert near.tolist() == [[True, True, False], [True, True, True], [False, True, True]]
    linked, link = [], module._link
    monkeypatch.setattr(module, "_link", lambda within, *rest: linked.append(within) or link(within, *rest))
    labels = cluster_groups([chain, alike], threshold=0.3)
    assert len(linked) == 1
    assert np.array_equal(linked[0], bleu_distances(chain))
    assert labels[1].tolist() == [0, 0, 0]
    assert _same_clusters(labels[0], _scikit_learn(chain, 0.3))


def test_repeated_texts_weigh_as_often_as_they_are_there():
    # The middle text joins the side that is nearer on average, over all members of the side.
    for copies in ([1, 1, 1], [3, 1, 1], [1, 1, 4], [2, 5, 1]):
        texts = ["a b c d e f g h", "a b c d e f g x", "z b c d e f g x"]
        group = [text for text, times in zip(texts, copies, strict=True) for _ in range(times)]
        for threshold in (0.15, 0.25, 0.3, 0.35, 0.4):
            assert _same_clusters(cluster_groups([group], threshold)[0], _scikit_learn(group, threshold))


def test_the_threshold_itself_keeps_apart():
    texts = ["zebra", "what is this"]
    assert bleu_distances(texts)[0, 1] == 1.0
    for labels in (cluster(texts, threshold=1.0), cluster_groups([texts], threshold=1.0)[0]):
        assert labels.tolist() != [0, 0]
    for labels in (cluster(texts, threshold=1.01), cluster_groups([texts], threshold=1.01)[0]):
        assert labels.tolist() == [0, 0]


def test_shares_by_hand():
    assert cluster_fractions(np.array([2, 0, 2, 1, 2])).tolist() == [0.6, 0.2, 0.6, 0.2, 0.6]
    assert cluster_fractions(np.array([], dtype=int)).tolist() == []
    with pytest.raises(ValueError, match=r"labels: must have shape \(n,\), got \(1, 2\)"):
        cluster_fractions(np.zeros((1, 2), dtype=int))
