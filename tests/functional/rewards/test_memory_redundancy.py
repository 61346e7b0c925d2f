import random

import numpy as np
import pytest
import torch

from visplay.functional import MemoryRedundancy, bleu_distances, bleu_similarity, token_overlap

TEXTS = ["How many dots", "what colour is it", "", "is it red"]
OTHERS = ["dots many how", "what  COLOUR", "it is red or is it"]


def test_token_overlap_by_hand():
    expected = [[1.0, 0.0, 0.0], [0.0, 0.5, 2 / 6], [0.0, 0.0, 0.0], [0.0, 0.0, 3 / 4]]
    np.testing.assert_allclose(token_overlap(TEXTS, OTHERS), expected)
    assert token_overlap([""], [" "]).tolist() == [[1.0]]


def test_token_overlap_is_that_of_sets():
    draw = random.Random(0)
    texts, others = ([" ".join(draw.choices("abcdefgh", k=draw.randint(0, 6))) for _ in range(n)] for n in (30, 20))
    for text, row in zip(texts, token_overlap(texts, others), strict=True):
        for other, found in zip(others, row, strict=True):
            one, two = set(text.split()), set(other.split())
            assert found == pytest.approx(len(one & two) / len(one | two) if one | two else 1.0)


def test_bleu_similarity_is_that_of_each_pair():
    found = bleu_similarity(TEXTS, OTHERS)
    assert found.shape == (4, 3)
    for text, row in zip(TEXTS, found, strict=True):
        np.testing.assert_allclose(row, [1.0 - bleu_distances([text, other])[0, 1] for other in OTHERS])


def test_charges_by_hand():
    table = {"new": [0.1, 0.2, 0.0], "like one": [0.9, 0.1, 0.2], "like all": [0.7, 0.6, 0.5], "the same": [1, 1, 1]}
    charge = MemoryRedundancy(lambda texts, others: np.array([table[text] for text in texts]))
    found = charge([["new", None, "like one"], ["like all", "the same", None]], ["a", "b", "c"])
    expected = [[0.0, 0.0, 0.5 * 0.4 + 0.5 * 0.15], [0.5 * 0.2 + 0.5 * 0.35, 0.625, 0.0]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_nothing_to_charge():
    charge = MemoryRedundancy()
    assert charge([["a b", None]], []).tolist() == [[0.0, 0.0]]
    assert charge([[None, None], [None, None]], ["a b"]).tolist() == [[0.0, 0.0]] * 2
    with pytest.raises(ValueError, match="size: must be at least 1, got 0"):
        MemoryRedundancy(size=0)
