"""How much a prompt counts in an update: a weight in [0, 1] by which its advantages are multiplied.

Removing the deviation of a group does not discount a bad label, since a group that half agrees has large advantages
whatever it agrees with. All here see what curation stored with the question, none the answers that are learned from: a
weight that rose with the policy's own certainty while it learns would feed back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visplay.types import Example


def confidence_weights(examples: Sequence[Example]) -> Tensor:
    """Weigh each question by the confidence of the vote that labelled it: w = c; 1 for a gold answer.

    Args:
        examples: N questions with their labels.

    Returns:
        (N,) in [0, 1], float32.
    """
    return torch.tensor([example.score for example in examples])


def margin_weights(examples: Sequence[Example]) -> Tensor:
    """Weigh each question by the lead of its vote: w = (n_1 - n_2) / (n_1 + n_2 + ...); 1 for a gold answer.

    A label that a tie was drawn for has no lead, and is not learned from.

    Args:
        examples: N questions with their labels.

    Returns:
        (N,) in [0, 1], float32.

    Example:
        >>> from PIL import Image
        >>> image = Image.new("RGB", (8, 8))
        >>> votes = (("2", 5), ("3", 3), ("4", 2))
        >>> margin_weights([Example("a", image, "How many?", "2", votes=votes), Example("b", image, "How many?", "2")])
        tensor([0.2000, 1.0000])
    """
    return torch.tensor([_margin([count for _, count in example.votes]) for example in examples])


def accuracy_weights(examples: Sequence[Example]) -> Tensor:
    """Weigh each question by how likely its label is right: w = ``Example.label_accuracy``.

    Args:
        examples: N questions with their labels.

    Returns:
        (N,) in [0, 1], float32; 1 where nobody has estimated it.
    """
    return torch.tensor([example.label_accuracy for example in examples])


@dataclass(frozen=True)
class GaussianWeights:
    """Weigh each question by a Gaussian of the vote's confidence: w = exp(-(c - k)^2 / (2 σ^2)).

    RESTRAIN (arXiv 2510.02172) weighs a prompt by u = g(c_ref / n), g a Gaussian of centre k and bandwidth σ and c_ref
    the majority of n answers of the frozen base. Here c is the base's where the base votes at curation: a ``Teacher``
    of rate 0. Chosen here, as what was read of the paper does not say them: the exponent's factor 1/2, k = 1, which
    makes g rise over all of [0, 1], and σ = 0.5.

    Args:
        centre: k, the confidence of weight 1, in [0, 1].
        width: σ, above 0.

    Raises:
        ValueError: ``centre`` is no fraction, or ``width`` not positive.
    """

    centre: float = 1.0
    width: float = 0.5

    def __post_init__(self) -> None:
        """Reject what is no Gaussian over fractions."""
        if not 0 <= self.centre <= 1:
            raise ValueError(f"centre: must be in [0, 1], got {self.centre}")
        if not self.width > 0:
            raise ValueError(f"width: must be above 0, got {self.width}")

    def __call__(self, examples: Sequence[Example]) -> Tensor:
        """Weigh N questions with their labels; (N,) in (0, 1], float32."""
        distance = (confidence_weights(examples) - self.centre) / self.width
        return torch.exp(-distance.square() / 2)


def _margin(counts: Sequence[int]) -> float:
    """Lead of the first count over the second, as a fraction of all; 1 without any."""
    first, second = [*counts, 0, 0][:2]
    return max(first - second, 0) / sum(counts) if counts else 1.0
