"""The weights that aggregate the tokens of a batch into one loss.

A loss is a sum under these weights. They are computed once, over the batch of a whole update, and cut with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


def sequence_mean_weights(mask: Tensor) -> Tensor:
    """Weights of published GRPO (arXiv 2402.03300): the mean over a completion's tokens, then over the completions.

    Args:
        mask: (B, T) true at tokens that count.

    Returns:
        (B, T) mask / length / B, float32; a row without a token is all 0 and still counts in B.

    Raises:
        ValueError: ``mask`` is not (B, T).

    Example:
        >>> import torch
        >>> sequence_mean_weights(torch.tensor([[1, 1], [1, 0]])).tolist()
        [[0.25, 0.25], [0.5, 0.0]]
    """
    mask = _as_float(mask)
    return mask / mask.sum(1, keepdim=True).clamp(min=1.0) / max(len(mask), 1)


def token_mean_weights(mask: Tensor) -> Tensor:
    """Weights of DAPO (arXiv 2503.14476): a mean over all tokens of the batch, long completions counting for more.

    Args:
        mask: (B, T) true at tokens that count.

    Returns:
        (B, T) mask / sum of mask, float32; all 0 without a token.

    Raises:
        ValueError: ``mask`` is not (B, T).

    Example:
        >>> import torch
        >>> token_mean_weights(torch.tensor([[1, 1, 1], [1, 0, 0]])).tolist()
        [[0.25, 0.25, 0.25], [0.25, 0.0, 0.0]]
    """
    mask = _as_float(mask)
    return mask / mask.sum().clamp(min=1.0)


@dataclass(frozen=True)
class FixedLengthWeights:
    """Weights of Dr.GRPO (arXiv 2503.20783): every token counts the same, whatever its completion's length.

    The sum over a completion is divided by a constant, so that a long wrong answer is not punished less per token.

    Args:
        tokens: The constant, usually the most tokens that a completion may have; at least 1.

    Raises:
        ValueError: ``tokens`` is below 1.

    Example:
        >>> import torch
        >>> FixedLengthWeights(tokens=4)(torch.tensor([[1, 1], [1, 0]])).tolist()
        [[0.125, 0.125], [0.125, 0.0]]
    """

    tokens: int

    def __post_init__(self) -> None:
        """Reject a constant that cannot divide."""
        if self.tokens < 1:
            raise ValueError(f"tokens: must be at least 1, got {self.tokens}")

    def __call__(self, mask: Tensor) -> Tensor:
        """Weigh each token by 1 / (B * tokens).

        Args:
            mask: (B, T) true at tokens that count.

        Returns:
            (B, T) mask / (B * tokens), float32.

        Raises:
            ValueError: ``mask`` is not (B, T).
        """
        mask = _as_float(mask)
        return mask / (max(len(mask), 1) * self.tokens)


def _as_float(mask: Tensor) -> Tensor:
    if mask.ndim != 2:
        raise ValueError(f"mask: must have shape (B, T), got {tuple(mask.shape)}")
    return mask.float()
