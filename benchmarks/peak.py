"""The fastest matrix products of a machine: what every fraction of a peak is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from benchmarks.timing import ROUNDS, alternate

Product = tuple[int, int, int]
"""Rows, inner width and columns of a product."""


def model_products(model: Any, rows: int) -> list[Product]:
    """The products of a model's matrices with that many rows, each size once."""
    sizes = {(m.in_features, m.out_features) for m in model.modules() if isinstance(m, nn.Linear)}
    return sorted((rows, inner, columns) for inner, columns in sizes)


def measure_peak(
    products: Sequence[Product], dtype: torch.dtype, device: str, rounds: int = ROUNDS
) -> dict[str, float]:
    """Operations per second of each product, in its fastest round."""
    parts = {}
    for rows, inner, columns in products:
        left = torch.randn(rows, inner, device=device, dtype=dtype)
        right = torch.randn(columns, inner, device=device, dtype=dtype)
        times = max(1, int(5e8 / (2 * rows * inner * columns)))  # so that a short one is not all overhead

        def multiply(left=left, right=right, times=times) -> None:
            for _ in range(times):
                nn.functional.linear(left, right)

        parts[rows, inner, columns, times] = multiply
    seconds = alternate(parts, rounds)
    return {
        f"{rows} x {inner} x {columns}": 2.0 * rows * inner * columns * times / seconds[rows, inner, columns, times].low
        for rows, inner, columns, times in parts
    }
