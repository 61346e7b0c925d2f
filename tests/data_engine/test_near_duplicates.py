"""Images that look alike, by hand and against all pairs."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from scipy.sparse.csgraph import connected_components

from visplay.data_engine.near_duplicates import first_alike, perceptual_hashes
from visplay.types import UnlabeledImage


def test_chains_by_hand():
    """0 and 2 differ in one bit, 2 and 3 in one more; 1 differs from all in two or more."""
    codes = np.array([0b1111_0000, 0b0000_0000, 0b0111_0000, 0b0011_0000, 0b0000_0000], np.uint64)
    assert first_alike(codes, 0).tolist() == [0, 1, 2, 3, 1]
    assert first_alike(codes, 1).tolist() == [0, 1, 0, 0, 1]
    assert first_alike(codes, 2).tolist() == [0, 0, 0, 0, 0]
    assert first_alike(codes[:0], 4).tolist() == []


@pytest.mark.parametrize("distance", [0, 1, 4, 16])
def test_against_all_pairs(distance):
    codes = np.random.default_rng(distance).integers(0, 2**18, 300, dtype=np.uint64) * np.uint64(2**46 + 1)
    _, groups = connected_components(np.bitwise_count(codes[:, None] ^ codes) <= distance)
    expected = [int(np.flatnonzero(groups == group)[0]) for group in groups]
    assert first_alike(codes, distance).tolist() == expected


def test_a_distance_that_is_none():
    with pytest.raises(ValueError, match=r"distance: must be in \[0, 16\] of 64 bits, got 17"):
        first_alike(np.zeros(1, np.uint64), 17)


def test_a_smaller_copy_looks_like_its_image():
    noise = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    one, other = (Image.fromarray(each).resize((128, 128), Image.Resampling.BICUBIC) for each in noise)
    file = BytesIO()
    one.resize((80, 80)).save(file, "JPEG", quality=80)
    items = [UnlabeledImage(key, image) for key, image in (("a", one), ("b", other), ("c", Image.open(file)))]
    keys, indices, codes = perceptual_hashes(items)
    assert (keys, indices.tolist()) == (["a", "b", "c"], [0, 1, 2])
    assert first_alike(codes, 4).tolist() == [0, 1, 0]
