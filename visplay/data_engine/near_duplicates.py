"""Images that look alike, by perceptual hashes: in time and memory that grow with their number, not with its square."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import imagehash
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from visplay.data.draws import Collection
from visplay.data.images.image_folder import UnusableItemError

BITS = 64
_MAX_THREADS = 8
_CHUNK = 1024
_MOST_PAIRS = 2**22


def perceptual_hashes(images: Collection) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Hash images as they look: pHash, signs of the lowest 8 x 8 frequencies of a cosine transform.

    Args:
        images: A collection, read in its order by a few threads; no image is kept. An unusable one is left out.

    Returns:
        Keys, indices (n,) int64 and hashes (n,) uint64 of the usable ones.
    """

    def look(index: int) -> tuple[str, int] | None:
        try:
            item = images[index]
        except UnusableItemError:
            return None
        bits = np.packbits(imagehash.phash(item.image).hash.ravel())
        return item.key, int.from_bytes(bits.tobytes())

    keys: list[str] = []
    found: list[tuple[int, int]] = []
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
        for start in range(0, len(images), _CHUNK):
            chunk = range(start, min(start + _CHUNK, len(images)))
            looked = zip(chunk, pool.map(look, chunk), strict=True)
            for index, (key, code) in ((index, each) for index, each in looked if each is not None):
                keys.append(key)
                found.append((index, code))
    indices, codes = zip(*found, strict=True) if found else ((), ())
    return keys, np.array(indices, np.int64), np.array(codes, np.uint64)


def first_alike(codes: np.ndarray, distance: int) -> np.ndarray:
    """The first of the images that each one looks like; of one that is like none before it, itself.

    Alike is what a chain of hashes links that differ in at most ``distance`` bits from one to the next. Hashes that
    near are equal in one of ``distance + 1`` blocks of their bits, so that only those with an equal block are compared
    (multi-index hashing, Norouzi et al., CVPR 2012).

    Args:
        codes: (n,) uint64.
        distance: Most bits that differ, in [0, 16].

    Returns:
        (n,) int64 indices, none greater than its own.

    Raises:
        ValueError: The distance is out of range.

    Example:
        >>> first_alike(np.array([0b1111, 0b0000, 0b0111, 0b0011], np.uint64), 1)
        array([0, 1, 0, 0])
    """
    if not 0 <= distance <= 16:
        raise ValueError(f"distance: must be in [0, 16] of {BITS} bits, got {distance}")
    distinct, first, of = np.unique(codes, return_index=True, return_inverse=True)
    groups = np.arange(len(distinct))
    for block in _blocks(distinct, distance + 1) if distance else ():
        for one, other in _near_pairs(distinct, block, distance):
            groups = _link(groups, one, other)
    earliest = np.full(len(distinct), len(codes), np.int64)
    np.minimum.at(earliest, groups, first)
    return earliest[groups][of]


def _blocks(codes: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """The bits of all codes in so many blocks, one after the other."""
    ends = np.linspace(0, BITS, count + 1).astype(int)
    for start, end in zip(ends, ends[1:], strict=False):
        yield (codes >> np.uint64(start)) & np.uint64(2 ** int(end - start) - 1)


def _near_pairs(codes: np.ndarray, block: np.ndarray, distance: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of codes with equal blocks that differ in few bits, some at a time."""
    order = np.argsort(block, kind="stable")
    ordered, values = block[order], codes[order]
    positions = np.arange(len(codes))
    found: list[tuple[np.ndarray, np.ndarray]] = []
    step, waiting = 1, 0
    while len(positions := positions[positions + step < len(codes)]):
        positions = positions[ordered[positions] == ordered[positions + step]]  # groups of equal blocks that are longer
        near = np.bitwise_count(values[positions] ^ values[positions + step]) <= distance
        found.append((order[positions[near]], order[positions[near] + step]))
        waiting += int(near.sum())
        if waiting > _MOST_PAIRS:
            yield _join(found)
            found, waiting = [], 0
        step += 1
    if found:
        yield _join(found)


def _join(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([one for one, _ in pairs]), np.concatenate([other for _, other in pairs])


def _link(groups: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Groups (n,) in which the members of each pair are of one."""
    n = len(groups)
    graph = coo_array((np.ones(len(one), bool), (groups[one], groups[other])), shape=(n, n))
    return connected_components(graph, directed=False)[1][groups]
