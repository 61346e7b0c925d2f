import math

import pytest
import torch
from PIL import Image

from visplay.functional import GaussianWeights, accuracy_weights, confidence_weights, margin_weights
from visplay.types import Example

GOLD = Example("gold", Image.new("RGB", (8, 8)), "How many?", "2")
SILVER = Example("a", GOLD.image, "How many?", "2", score=0.625, votes=(("2", 5), ("3", 3)), label_accuracy=0.9)
TIED = Example("b", GOLD.image, "How many?", "2", score=0.5, votes=(("2", 4), ("3", 4)), label_accuracy=0.5)
SURE = Example("c", GOLD.image, "How many?", "2", score=1.0, votes=(("2", 8),), label_accuracy=0.75)
EXAMPLES = [GOLD, SILVER, TIED, SURE]


def test_weights_by_hand():
    assert confidence_weights(EXAMPLES).tolist() == [1.0, 0.625, 0.5, 1.0]
    assert margin_weights(EXAMPLES).tolist() == [1.0, 0.25, 0.0, 1.0]
    torch.testing.assert_close(accuracy_weights(EXAMPLES), torch.tensor([1.0, 0.9, 0.5, 0.75]))


def test_gaussian_weights_by_hand():
    expected = torch.tensor([1.0, math.exp(-0.28125), math.exp(-0.5), 1.0])  # .375^2 and .5^2 over 2 * .5^2
    torch.testing.assert_close(GaussianWeights()(EXAMPLES), expected)
    assert GaussianWeights(centre=0.5, width=0.25)(EXAMPLES)[2] == 1.0


@pytest.mark.parametrize("weigh", [confidence_weights, margin_weights, accuracy_weights, GaussianWeights()])
def test_weights_are_fractions_in_single_precision(weigh):
    weights = weigh(EXAMPLES)
    assert weights.dtype == torch.float32
    assert weights.shape == (4,)
    assert bool(((weights >= 0) & (weights <= 1)).all())


def test_what_is_no_gaussian_over_fractions():
    with pytest.raises(ValueError, match=r"centre: must be in \[0, 1\], got 1.5"):
        GaussianWeights(centre=1.5)
    for width in (0.0, float("nan")):
        with pytest.raises(ValueError, match="width: must be above 0, got"):
            GaussianWeights(width=width)
