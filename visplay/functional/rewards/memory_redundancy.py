"""What a question costs that is like those which earlier iterations kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from visplay.functional.rewards.clustering import bleu_distances

_MAX_FREE, _MEAN_FREE = 0.5, 0.25


def bleu_similarity(texts: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """Compare texts by BLEU-4, averaged over both directions: 1 less ``bleu_distances``.

    Args:
        texts: n texts.
        others: m texts.

    Returns:
        (n, m) similarities in [0, 1], float64.

    Raises:
        ValueError: A text has more than 55107 tokens.
    """
    return 1.0 - bleu_distances([*texts, *others])[: len(texts), len(texts) :]


def token_overlap(texts: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """Compare texts by their sets of tokens, whatever their order: |A ∩ B| / |A ∪ B| (Jaccard, 1912).

    Tokens are lower-cased and split at white space, as for BLEU. Texts without tokens are alike.

    Args:
        texts: n texts.
        others: m texts.

    Returns:
        (n, m) similarities in [0, 1], float64.

    Example:
        >>> token_overlap(["How many red dots", ""], ["many red dots", "what"]).tolist()
        [[0.75, 0.0], [0.0, 0.0]]
    """
    tokens = [{*text.lower().split()} for text in (*texts, *others)]
    columns = {token: column for column, token in enumerate({token for each in tokens for token in each})}
    sizes = np.array([len(each) for each in tokens])
    indices = [columns[token] for each in tokens for token in each]
    table = csr_array(
        (np.ones(len(indices)), indices, np.concatenate([[0], sizes.cumsum()])), shape=(len(tokens), len(columns))
    )
    shared = (table[: len(texts)] @ table[len(texts) :].T).toarray()
    union = sizes[: len(texts), None] + sizes[None, len(texts) :] - shared
    return np.where(union > 0, shared / np.maximum(union, 1), 1.0)


@dataclass(frozen=True)
class MemoryRedundancy:
    """Charge a question for being like remembered ones: ½·max(max s − ½, 0) + ½·max(mean s − ¼, 0).

    s are its similarities to the questions remembered; after R-Diverse (arXiv 2602.13103, whose formula we have at
    second hand). What repeats one of them costs at least ¼, what is like most of them up to ⅝, what is new nothing.

    Args:
        similarity: Compares n texts with m others, (n, m) in [0, 1]: ``bleu_similarity`` or ``token_overlap``.
        size: Most questions remembered, drawn from all that earlier iterations kept.

    Raises:
        ValueError: ``size`` is below 1.

    Example:
        >>> charge = MemoryRedundancy(token_overlap)
        >>> charge([["how many dots", "what colour", None]], remembered=["how many dots", "is it red"]).tolist()
        [[0.375, 0.0, 0.0]]
    """

    similarity: Callable[[Sequence[str], Sequence[str]], Any] = bleu_similarity
    size: int = 512

    def __post_init__(self) -> None:
        """Reject a memory that holds nothing."""
        if self.size < 1:
            raise ValueError(f"size: must be at least 1, got {self.size}")

    def __call__(self, texts: Sequence[Sequence[str | None]], remembered: Sequence[str]) -> Tensor:
        """Charge questions.

        Args:
            texts: (N, G) questions; None where nothing parsed.
            remembered: M questions of earlier iterations.

        Returns:
            (N, G) charges in [0, 0.625], float32; 0 where there is no question, or nothing is remembered.
        """
        charges = torch.zeros(len(texts), len(texts[0]))
        parsed = torch.tensor([[text is not None for text in group] for group in texts])
        asked = [text for group in texts for text in group if text is not None]
        if asked and remembered:
            similarities = torch.as_tensor(self.similarity(asked, remembered))  # (n, M)
            nearest = torch.relu(similarities.amax(1) - _MAX_FREE)
            common = torch.relu(similarities.mean(1) - _MEAN_FREE)
            charges[parsed] = (0.5 * nearest + 0.5 * common).float()
        return charges
