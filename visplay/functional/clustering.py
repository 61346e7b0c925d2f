"""How alike the questions of a group are: BLEU distances, average linkage, shares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import csr_array
from scipy.spatial.distance import squareform

_MAX_ORDER = 4
_SMOOTHING = 0.1


def bleu_distances(texts: Sequence[str]) -> np.ndarray:
    """Measure how unlike texts are: 1 - BLEU-4, averaged over both directions.

    Sentence BLEU (Papineni et al., 2002) with smoothing 1 of Chen and Cherry (2014), over lower-cased tokens split at
    white space. Texts with equal tokens have distance 0, short and empty ones too.

    Args:
        texts: n texts.

    Returns:
        (n, n) symmetric distances in [0, 1], float64.
    """
    tokens = [tuple(text.lower().split()) for text in texts]
    bleu = _pairwise_bleu(tokens)
    distances = np.clip(1.0 - (bleu + bleu.T) / 2.0, 0.0, 1.0)
    kinds = {sentence: kind for kind, sentence in enumerate(dict.fromkeys(tokens))}
    kind = np.array([kinds[sentence] for sentence in tokens], dtype=np.int64)
    return np.where(kind[:, None] == kind[None, :], 0.0, distances)


def cluster(texts: Sequence[str], threshold: float = 0.5) -> np.ndarray:
    """Group texts by average linkage on their BLEU distances.

    Args:
        texts: n texts.
        threshold: Clusters further apart than this, or exactly this far, stay apart.

    Returns:
        (n,) labels from 0, int64.

    Example:
        >>> labels = cluster(["how many red dots are there", "how many red dots are here", "what is this"])
        >>> bool(labels[0] == labels[1]), bool(labels[0] == labels[2])
        (True, False)
    """
    if len(texts) < 2:
        return np.zeros(len(texts), dtype=np.int64)
    merges = linkage(squareform(bleu_distances(texts), checks=False), method="average")
    just_below = np.nextafter(threshold, -np.inf)  # fcluster joins at the threshold, scikit-learn only below it
    return fcluster(merges, just_below, criterion="distance").astype(np.int64) - 1


def cluster_shares(labels: np.ndarray) -> np.ndarray:
    """Share of each item's cluster among all items, |C(x_i)| / n.

    Args:
        labels: (n,) cluster labels, integers from 0.

    Returns:
        (n,) shares in (0, 1], float64.

    Raises:
        ValueError: ``labels`` is not one-dimensional.

    Example:
        >>> cluster_shares(np.array([0, 0, 1, 0])).tolist()
        [0.75, 0.75, 0.25, 0.75]
    """
    if labels.ndim != 1:
        raise ValueError(f"labels: must have shape (n,), got {labels.shape}")
    return np.bincount(labels)[labels] / max(len(labels), 1)


def _pairwise_bleu(tokens: Sequence[tuple[str, ...]]) -> np.ndarray:
    """(n, n) BLEU with row i as hypothesis and column j as reference."""
    lengths = np.array([len(sentence) for sentence in tokens], dtype=np.int64)
    matches = _count_matches(tokens, lengths)  # (4, n, n)
    available = np.maximum(lengths - np.arange(len(matches))[:, None], 1)[:, :, None]  # (4, n, 1)
    precision = np.where(matches == 0, _SMOOTHING, matches) / available
    brevity = np.exp(np.minimum(0.0, 1.0 - lengths / np.maximum(lengths, 1)[:, None]))
    return np.where(matches[0] == 0, 0.0, brevity * np.exp(np.log(precision).mean(0)))


def _count_matches(tokens: Sequence[tuple[str, ...]], lengths: np.ndarray) -> np.ndarray:
    """(4, n, n) clipped matches of n-grams of 1 to 4 tokens."""
    vocabulary = {word: index for index, word in enumerate({word for sentence in tokens for word in sentence})}
    words = np.array([vocabulary[word] for sentence in tokens for word in sentence], dtype=np.int64)
    rows = np.repeat(np.arange(len(tokens)), lengths)
    left = np.concatenate([np.arange(length, 0, -1) for length in lengths] or [rows])  # tokens from here to the end
    grams, matches = np.zeros_like(words), []
    for order in range(1, _MAX_ORDER + 1):
        inside = left >= order
        following = np.concatenate([words[order - 1 :], np.zeros(order - 1, dtype=np.int64)])[: len(words)]
        _, grams = np.unique(grams * max(len(vocabulary), 1) + following, return_inverse=True)
        matches.append(_count_shared(rows[inside], grams[inside], len(tokens)))
    return np.stack(matches)


def _count_shared(rows: np.ndarray, items: np.ndarray, size: int) -> np.ndarray:
    """(size, size) items that two rows share, a k-th occurrence matching only a k-th occurrence."""
    order = np.lexsort((items, rows))
    rows, items = rows[order], items[order]
    starts = np.flatnonzero(np.diff(rows, prepend=-1) | np.diff(items, prepend=-1))
    occurrence = np.arange(len(rows)) - np.repeat(starts, np.diff(starts, append=len(rows)))
    _, columns = np.unique(items * (len(items) + 1) + occurrence, return_inverse=True)
    bounds = np.searchsorted(rows, np.arange(size + 1))
    present = csr_array((np.ones(len(rows)), columns, bounds), shape=(size, int(columns.max(initial=0)) + 1))
    return (present @ present.T).toarray()
