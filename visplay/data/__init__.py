"""Data that self-play reads and writes: unlabeled images and the generated examples."""

from visplay.data.generated import FEATURES, GeneratedDataset, Ledger, read_examples, write_examples
from visplay.data.images import ImageFolder, SkippedImage, decode_image, to_rgb

__all__ = [
    "FEATURES",
    "GeneratedDataset",
    "ImageFolder",
    "Ledger",
    "SkippedImage",
    "decode_image",
    "read_examples",
    "to_rgb",
    "write_examples",
]
