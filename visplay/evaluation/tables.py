"""Reports as tables: lists of cells, for a terminal, as Markdown, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from visplay.metrics import Report
from visplay.statistics.intervals import Estimate, format_estimate
from visplay.statistics.paired import Comparison

Cells = list[list[str]]
AVERAGES = ("macro_average", "micro_average")
_NOTHING = "–"


def score_table(reports: Mapping[str, Report]) -> Cells:
    """A line per benchmark and average: what every benchmark is measured by, with intervals, and how many were skipped.

    Args:
        reports: By benchmark, see ``SuiteScores.compute``.

    Returns:
        Header and lines.
    """
    measures = list(dict.fromkeys(m for report in reports.values() for m in report.measures if is_general(m)))
    skipped = any(report.counts.get("skipped") for report in reports.values())
    counted = ["rows", "skipped"] if skipped else ["rows"]
    sizes = {report.counts.get("samples", 0) for report in reports.values()} - {0}
    majority = f"majority@{sizes.pop()}" if len(sizes) == 1 else "majority"
    lines = [["benchmark", *counted, *(majority if m == "majority" else _title(m) for m in measures)]]
    for name, report in reports.items():
        counts = [str(report.counts.get(count, _NOTHING)) for count in counted]
        cells = [format_estimate(report.measures[m]) if m in report.measures else _NOTHING for m in measures]
        lines.append([_title(name), *counts, *cells])
    return lines


def detail_table(reports: Mapping[str, Report]) -> Cells:
    """A line per measure that a benchmark has of its own; the header alone if there is none."""
    lines = [["benchmark", "measure", "value", "of"]]
    for name, report in reports.items():
        for measure, estimate in report.measures.items():
            if not is_general(measure):
                size = _NOTHING if estimate is None else str(estimate.size)
                lines.append([name, measure, format_estimate(estimate), size])
    return lines


def comparison_table(comparisons: Mapping[tuple[str, str], Comparison]) -> Cells:
    """A line per benchmark and measure.

    Args:
        comparisons: By benchmark and measure, see ``compare_stores``.

    Returns:
        Header and lines.
    """
    lines = [["benchmark", "measure", "rows", "before", "after", "difference", "gained / lost", "p"]]
    for (benchmark, measure), found in comparisons.items():
        means = [f"{100 * value:.1f}" for value in (found.before, found.after)]
        changed = _NOTHING if found.gained is None else f"{found.gained} / {found.lost}"
        p_value = _NOTHING if found.p_value is None else f"{found.p_value:.3g}"
        size = _NOTHING if benchmark == "macro_average" else str(found.difference.size)
        difference = format_difference(found.difference)
        lines.append([_title(benchmark), _title(measure), size, *means, difference, changed, p_value])
    return lines


def format_difference(estimate: Estimate) -> str:
    """Write a difference of shares in points of per cent, with its interval.

    Example:
        >>> format_difference(Estimate(0.051, -0.01, 0.11, size=200))
        '+5.1 [-1.0, +11.0]'
    """
    return f"{100 * estimate.value:+.1f} [{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}]"


def is_general(measure: str) -> bool:
    """Whether a measure is one that any benchmark has, not one of its own."""
    general = ("rule_accuracy", "wrong_claims", "pass@1", "majority")
    return measure in general or measure.startswith("judge_accuracy/")


def as_markdown(cells: Cells) -> str:
    r"""Write a table as Markdown.

    Example:
        >>> print(as_markdown([["benchmark", "rows"], ["a|b", "3"]]))
        | benchmark | rows |
        |---|---|
        | a\|b | 3 |
    """
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells]
    return "\n".join([lines[0], "|" + "---|" * len(cells[0]), *lines[1:]])


def as_rich(cells: Cells, title: str) -> Table:
    """The table for a terminal, where an interval may go below its value but is not broken."""
    table = Table(title=Text(title), box=SIMPLE_HEAD, padding=0)
    lines = [[cell.replace(", ", ",") for cell in line] for line in cells]
    for place, column in enumerate(zip(*lines, strict=True)):
        longest = max(len(word) for cell in column for word in (cell.split() if place else [cell]))
        table.add_column(Text(column[0]), justify="right" if place else "left", min_width=longest)
    for line in lines[1:]:
        table.add_row(*map(Text, line))  # not markup, of which "[nan,nan]" would be a piece
    return table


def as_json(reports: Mapping[str, Report]) -> dict[str, Any]:
    """The reports as plain values; null where a measure is unavailable or says nothing."""
    return {
        name: {"measures": {m: _plain(e) for m, e in report.measures.items()}, "counts": report.counts}
        for name, report in reports.items()
    }


def _plain(estimate: Estimate | None) -> dict[str, float | None] | None:
    """As JSON has it, which knows no NaN."""
    if estimate is None:
        return None
    return {name: None if math.isnan(value) else value for name, value in estimate._asdict().items()}


def _title(name: str) -> str:
    """``judge_accuracy/glm`` reads "judge accuracy: glm"."""
    kind, _, judge = name.partition("/")
    words = kind.replace("_", " ") if kind in (*AVERAGES, "rule_accuracy", "wrong_claims", "judge_accuracy") else kind
    return f"{words}: {judge}" if judge else words
