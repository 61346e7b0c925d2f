"""A second world, so that nothing is tuned to one: handwritten digits, and a base model that is as careless."""

from __future__ import annotations

from visplay.tiny.digits.digit_world import DigitWorld

__all__ = ["DigitWorld"]
