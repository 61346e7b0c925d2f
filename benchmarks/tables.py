"""Numbers and tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def middle(value: Any) -> float:
    """The median of a spread, or the number itself."""
    return value["median"] if isinstance(value, Mapping) else value


def number(value: Any) -> str:
    """A number, or a spread with its low and high, to three digits.

    Example:
        >>> number(0.12345), number(12345.6), number({"median": 2.0, "low": 1.5, "high": 3.0})
        ('0.123', '12,346', '2 [1.5 … 3]')
    """
    if isinstance(value, Mapping):
        return f"{number(value['median'])} [{number(value['low'])} … {number(value['high'])}]"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first column is text."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def grid(rows: Mapping[str, Mapping[str, Any]], corner: str = "") -> str:
    """A table of numbers, one line for each row; a column that a row lacks stays empty."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = [[name, *(number(row[c]) if c in row else "" for c in columns)] for name, row in rows.items()]
    return table([corner, *columns], lines)


def facts(values: Mapping[str, Any]) -> str:
    """What was measured, in one line."""
    return ", ".join(f"{name} {value}" for name, value in values.items()) + ".\n"
