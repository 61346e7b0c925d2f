"""How alike the questions of a group are: BLEU distances, average linkage, shares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import csr_array

_MAX_ORDER = 4
_SMOOTHING = 0.1
_MAX_TOKENS = 55107  # the matches of all four orders, each at most this, in one integer of 63 bits
_SMALL = 2**24  # a table of as many entries is sooner made than a block of pairs is sorted
_BLOCK_PAIRS = 2**18  # whose matches are in memory at a time
_TILE = 64  # rows that are mirrored at a time: a transposed copy of all would miss the cache at every step
_CLEAR_MARGIN = 1e-9  # far more than the rounding of a mean of distances

_Sentence = tuple[str, ...]


def bleu_distances(texts: Sequence[str]) -> np.ndarray:
    """Measure how unlike texts are: 1 - BLEU-4, averaged over both directions.

    Sentence BLEU (Papineni et al., 2002) with smoothing 1 of Chen and Cherry (2014), over lower-cased tokens split at
    white space. Texts with equal tokens have distance 0, short and empty ones too.

    Args:
        texts: n texts.

    Returns:
        (n, n) symmetric distances in [0, 1], float64.

    Raises:
        ValueError: A text has more than 55107 tokens.
    """
    sentences, kind = _distinct(texts)
    distances = _distances([sentences])[0]
    return distances if len(sentences) == len(texts) else distances[np.ix_(kind, kind)]


def cluster(texts: Sequence[str], threshold: float = 0.5) -> np.ndarray:
    """Group texts by average linkage on their BLEU distances.

    Args:
        texts: n texts.
        threshold: Clusters further apart than this, or exactly this far, stay apart.

    Returns:
        (n,) labels from 0, int64.

    Raises:
        ValueError: A text has more than 55107 tokens.

    Example:
        >>> labels = cluster(["how many red dots are there", "how many red dots are here", "what is this"])
        >>> bool(labels[0] == labels[1]), bool(labels[0] == labels[2])
        (True, False)
    """
    sentences, kind = _distinct(texts)
    return _link(_distances([sentences])[0], kind, threshold)


def cluster_groups(groups: Sequence[Sequence[str]], threshold: float = 0.5) -> list[np.ndarray]:
    """Group the texts of each group among themselves: the clusters of ``cluster``, for many small groups at once.

    Args:
        groups: N groups of texts, of any sizes.
        threshold: Clusters further apart than this, or exactly this far, stay apart.

    Returns:
        N arrays of labels from 0, (n,) for a group of n texts, int64. Labels of different groups say nothing of each
        other.

    Raises:
        ValueError: A text has more than 55107 tokens.

    Example:
        >>> [labels.tolist() for labels in cluster_groups([["how many", "How many", "what colour"], [], ["how many"]])]
        [[0, 0, 1], [], [0]]
    """
    distinct = [_distinct(group) for group in groups]
    labels = [kind for _, kind in distinct]
    for size in {len(sentences) for sentences, _ in distinct} - {0}:
        members = [index for index, (sentences, _) in enumerate(distinct) if len(sentences) == size]
        distances = _distances([distinct[index][0] for index in members])
        for index, clear, within in zip(members, _clear_labels(distances, threshold), distances, strict=True):
            kind = distinct[index][1]
            labels[index] = _link(within, kind, threshold) if clear is None else clear[kind]
    return labels


def cluster_fractions(labels: np.ndarray) -> np.ndarray:
    """Fraction of each item's cluster among all items, |C(x_i)| / n.

    Args:
        labels: (n,) cluster labels, integers from 0.

    Returns:
        (n,) shares in (0, 1], float64.

    Raises:
        ValueError: ``labels`` is not one-dimensional.

    Example:
        >>> cluster_fractions(np.array([0, 0, 1, 0])).tolist()
        [0.75, 0.75, 0.25, 0.75]
    """
    if labels.ndim != 1:
        raise ValueError(f"labels: must have shape (n,), got {labels.shape}")
    return np.bincount(labels)[labels] / max(len(labels), 1)


def _distinct(texts: Sequence[str]) -> tuple[list[_Sentence], np.ndarray]:
    """The distinct token sequences of texts in order of appearance, and which of them each text is, (n,)."""
    sentences = [tuple(text.lower().split()) for text in texts]
    indices = {sentence: index for index, sentence in enumerate(dict.fromkeys(sentences))}
    return list(indices), np.array([indices[sentence] for sentence in sentences], dtype=np.int64)


def _link(distances: np.ndarray, kind: np.ndarray, threshold: float) -> np.ndarray:
    """(n,) labels of average linkage over n texts: which of u distinct ones each is (n,), and their (u, u) distances.

    Repeated texts are linked each for itself: merged beforehand, they would make other ties.
    """
    from scipy.cluster.hierarchy import fcluster, linkage  # a quarter of a second, which not every command needs

    if len(kind) < 2:
        return np.zeros(len(kind), dtype=np.int64)
    pairs = np.concatenate([distances[one].take(kind[index + 1 :]) for index, one in enumerate(kind)])
    just_below = np.nextafter(threshold, -np.inf)  # fcluster joins at the threshold, scikit-learn only below it
    return fcluster(linkage(pairs, method="average"), just_below, criterion="distance").astype(np.int64) - 1


def _clear_labels(distances: np.ndarray, threshold: float) -> list[np.ndarray | None]:
    """(u,) labels of each of N groups, None where it takes the linkage to know.

    Where being nearer than the threshold is transitive, average linkage joins just the texts that are near each other,
    in whichever order: a mean of distances below the threshold is below it, a mean of others does not.

    Args:
        distances: (N, u, u) distances within N groups of u distinct texts.
        threshold: Where clusters part.
    """
    near = distances < threshold
    first = near.argmax(-1)  # (N, u) the first text that is near
    rank = np.cumsum(first == np.arange(first.shape[1]), axis=1) - 1
    transitive = ((first[:, :, None] == first[:, None, :]) == near).all((1, 2))
    clear = transitive & (np.abs(distances - threshold) > _CLEAR_MARGIN).all((1, 2))
    labels = np.take_along_axis(rank, first, axis=1)
    return [row if is_clear else None for row, is_clear in zip(labels, clear, strict=True)]


def _distances(groups: Sequence[Sequence[_Sentence]]) -> np.ndarray:
    """(N, u, u) distances within each of N groups of u distinct token sequences.

    Pairs without a common token have BLEU 0 and cost nothing. Of the others many have the same matches: logarithms are
    taken once for each case of matches and length.
    """
    size = len(groups[0])
    sentences = [sentence for group in groups for sentence in group]
    lengths, length_of = np.unique([len(sentence) for sentence in sentences], return_inverse=True)
    if lengths.max(initial=0) > _MAX_TOKENS:
        raise ValueError(f"texts: must have at most {_MAX_TOKENS} tokens each, got {lengths.max()}")
    distances = np.ones((len(groups), size, size))
    for rows, shared in _shared_grams(sentences, size):
        counts = np.diff(shared.indptr)  # pairs of each row
        one, other = np.repeat(length_of[rows], counts), length_of[shared.indices + rows[0]]
        indices = np.repeat(rows * size + rows[0] - rows // size * size, counts) + shared.indices
        distances.reshape(-1)[indices] = np.maximum(1.0 - _mean_bleu(shared.data, lengths, one, other), 0.0)
    _mirror(distances)
    return distances


def _mean_bleu(packed: np.ndarray, lengths: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(pairs,) BLEU averaged over both directions.

    Args:
        packed: (pairs,) matches of all orders.
        lengths: (L,) lengths of texts.
        one: (pairs,) which of the lengths a text of the pair has.
        other: (pairs,) which of them the other one has.
    """
    cases, case = _number(packed)
    matches = cases // _radices(lengths)[:, None] % (lengths[-1] + 1)  # (4, cases)
    available = np.maximum(lengths - np.arange(_MAX_ORDER)[:, None], 1)  # (4, L)
    if len(cases) * len(lengths) > 2 * len(packed):  # a table of every case and length would not pay
        forward, backward = (_mean_precision(matches[:, case], available[:, length]) for length in (one, other))
    else:
        table, start = _mean_precision(matches[:, :, None], available[:, None]).ravel(), case * len(lengths)
        forward, backward = table[start + one], table[start + other]
    brevity = np.exp(np.minimum(0.0, 1.0 - lengths / np.maximum(lengths, 1)[:, None])).ravel()  # (L · L,)
    forward *= brevity[one * len(lengths) + other]
    backward *= brevity[other * len(lengths) + one]
    return (forward + backward) / 2.0


def _mean_precision(matches: np.ndarray, available: np.ndarray) -> np.ndarray:
    """Geometric mean of the smoothed precisions of the four orders, which are the first dimension."""
    precision = np.where(matches == 0, _SMOOTHING, matches) / available
    return np.exp(np.log(precision).mean(0))


def _number(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values, sorted, and which of them each one is; without sorting where all are small."""
    limit = int(values.max(initial=0)) + 1
    if limit > _SMALL:
        return np.unique(values, return_inverse=True)
    there = np.zeros(limit, dtype=bool)
    there[values] = True
    distinct, index = np.flatnonzero(there), np.empty(limit, dtype=np.int64)
    index[distinct] = np.arange(len(distinct))
    return distinct, index[values]


def _radices(lengths: np.ndarray) -> np.ndarray:
    """(4,) what a match of each order counts in a packed number, with at most the longest length of each."""
    return (int(lengths.max(initial=0)) + 1) ** np.arange(_MAX_ORDER)


def _mirror(distances: np.ndarray) -> None:
    """Make (N, u, u) distances symmetric in place: of a pair, one side at least has its distance and the other 1."""
    for start in range(0, distances.shape[1], _TILE):
        inside, beyond = slice(start, start + _TILE), slice(start + _TILE, None)
        square = distances[:, inside, inside]
        square[...] = np.minimum(square, square.transpose(0, 2, 1))
        distances[:, beyond, inside] = distances[:, inside, beyond].transpose(0, 2, 1)
    diagonal = np.arange(distances.shape[1])
    distances[:, diagonal, diagonal] = 0.0


def _shared_grams(sentences: Sequence[_Sentence], size: int) -> Iterator[tuple[np.ndarray, csr_array]]:
    """Rows (R,) and their packed matches (R, C) with the texts from the first of them to the end of the last's group.

    One product counts all four orders: packed matches are numbers of four digits, see ``_radices``.
    """
    weighted = _count_grams(sentences, size)
    present = csr_array((np.ones_like(weighted.data), weighted.indices, weighted.indptr), shape=weighted.shape)
    step = max(_BLOCK_PAIRS // max(size, 1), 1)
    for start in range(0, len(sentences), step):
        rows = np.arange(start, min(start + step, len(sentences)))
        end = (rows[-1] // size + 1) * size
        yield rows, weighted[start : start + step] @ present[start:end].T


def _count_grams(sentences: Sequence[_Sentence], size: int) -> csr_array:
    """(n, columns) packed ones: a column for the k-th occurrence of an n-gram in a text of one group of ``size``.

    A k-th occurrence matches only a k-th occurrence, so that products of rows count clipped matches.
    """
    lengths = np.array([len(sentence) for sentence in sentences], dtype=np.int64)
    tokens = max(lengths.sum(), 1)
    rows, items = np.divmod(np.sort(_list_grams(sentences, size)), _MAX_ORDER * tokens)
    starts = np.flatnonzero(np.diff(rows, prepend=-1) | np.diff(items, prepend=-1))
    occurrence = np.arange(len(rows)) - np.repeat(starts, np.diff(starts, append=len(rows)))
    _, columns = np.unique(items * (len(items) + 1) + occurrence, return_inverse=True)
    bounds = np.searchsorted(rows, np.arange(len(sentences) + 1))
    weights = _radices(lengths)[items // tokens]
    shape = len(sentences), int(columns.max(initial=0)) + 1
    return csr_array((weights, columns.astype(np.int32), bounds.astype(np.int32)), shape=shape)


def _list_grams(sentences: Sequence[_Sentence], size: int) -> np.ndarray:
    """(grams,) every n-gram of 1 to 4 tokens as ``(row * 4 + order - 1) * tokens + identity``, not across groups."""
    lengths = np.array([len(sentence) for sentence in sentences], dtype=np.int64)
    vocabulary = {word: index for index, word in enumerate({word for sentence in sentences for word in sentence})}
    words = np.array([vocabulary[word] for sentence in sentences for word in sentence], dtype=np.int64)
    rows = np.repeat(np.arange(len(sentences)), lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))  # tokens from here to the end of the text
    grams, found = rows // max(size, 1), []
    for order in range(_MAX_ORDER):
        following = np.concatenate([words[order:], np.zeros(order, dtype=np.int64)])[: len(words)]
        _, grams = np.unique(grams * len(vocabulary) + following, return_inverse=True)
        found.append(((rows * _MAX_ORDER + order) * len(words) + grams)[left > order])
    return np.concatenate(found)
