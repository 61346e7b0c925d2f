"""Where people differ on whether two answers are the same: settings with a default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class GradingRules:
    """What counts as the same answer where people differ.

    Args:
        require_units: Whether 12 is wrong where 12 cm is meant; else what one side leaves out is no contradiction.
        convert_units: Whether 100 cm is 1 m, and 60 minutes an hour.
        percent: What 50 % equals besides itself: "number" (50), "fraction" (0.5).
        decimal_comma: Whether 3,14 is 3.14, where a comma can separate no thousands; 1,234 is 1234 either way.
        languages: Languages whose numbers in words are read, in this order: "zh", and those of text2num ("en", "fr",
            "es", "pt", "de", "it", "nl" among them).

    Raises:
        ValueError: ``percent`` is neither.
    """

    require_units: bool = False
    convert_units: bool = False
    percent: Literal["number", "fraction"] = "number"
    decimal_comma: bool = True
    languages: tuple[str, ...] = ("en", "zh")

    def __post_init__(self) -> None:
        if self.percent not in ("number", "fraction"):
            raise ValueError(f"percent: must be 'number' or 'fraction', got {self.percent!r}")
        object.__setattr__(self, "languages", tuple(self.languages))


DEFAULT_RULES = GradingRules()
