"""Images in a terminal: two pixels in a character."""

from __future__ import annotations

import numpy as np
from PIL import Image
from rich.color import Color
from rich.style import Style
from rich.text import Text


def half_blocks(image: Image.Image, columns: int, lines: int) -> Text:
    """Draw an image with upper half blocks, whose colour is the upper pixel and whose background is the lower one.

    Args:
        image: The image.
        columns: Most characters of a line.
        lines: Most lines.

    Example:
        >>> half_blocks(Image.new("RGB", (4, 2), "red"), 4, 10).plain
        '▀▀▀▀'
    """
    scale = min(columns / image.width, 2 * lines / image.height)
    width, height = max(1, round(image.width * scale)), max(2, round(image.height * scale / 2) * 2)
    pixels = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BOX)).tolist()
    lines_of_text = []
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        line = Text(no_wrap=True)
        for above, below in zip(upper, lower, strict=True):
            line.append("▀", Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
        lines_of_text.append(line)
    return Text("\n", no_wrap=True).join(lines_of_text)
