"""VisPlay: vision-language models that improve themselves from unlabeled images."""

__version__ = "0.1.0"
__all__ = ["__version__"]
