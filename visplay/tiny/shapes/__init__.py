"""The world of the embedded default: coloured shapes."""

from __future__ import annotations

from visplay.tiny.shapes.shape_world import ShapeWorld

SHAPES = ShapeWorld()

__all__ = ["SHAPES", "ShapeWorld"]
