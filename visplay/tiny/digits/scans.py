"""Handwritten digits as scikit-learn ships them: 1,797 scans of 8x8 grey levels, no download.

E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998 (CC BY 4.0).
"""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

SCAN_PIXELS = 13
TRAINING_SCANS = 1257
"""The first ones are for the cold start and self-play, the others for evaluation; the scans are ordered by writer."""


def scans_of(digit: int, *, training: bool) -> np.ndarray:
    """Numbers of the scans of a digit that training or evaluation uses."""
    return _pools(training)[digit]


def ink(scan: int) -> np.ndarray:
    """How dark each pixel of a scan is, in [0, 1], enlarged to (13, 13)."""
    return _enlarged()[scan]


@cache
def _load() -> tuple[np.ndarray, np.ndarray]:
    """Grey levels 0 ... 16, (1797, 8, 8), and digits, (1797,).

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("DigitWorld needs scikit-learn: install visplay[digits]") from error
    loaded = load_digits()
    return loaded.images, loaded.target


@cache
def _pools(training: bool) -> tuple[np.ndarray, ...]:
    _, digits = _load()
    numbers = np.arange(len(digits))
    mine = (numbers < TRAINING_SCANS) == training
    return tuple(numbers[mine & (digits == digit)] for digit in range(10))


@cache
def _enlarged() -> np.ndarray:
    levels, _ = _load()
    size = (SCAN_PIXELS, SCAN_PIXELS)
    images = [Image.fromarray(level.astype(np.float32)) for level in levels]
    return np.stack([np.asarray(image.resize(size, Image.Resampling.BILINEAR)) for image in images]) / 16
