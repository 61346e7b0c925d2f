"""Reports as tables: lists of cells, for a terminal, as Markdown, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from visplay.foreign_text import markdown_text
from visplay.metrics import Report
from visplay.statistics.intervals import Estimate, format_estimate
from visplay.statistics.paired import Comparison

Cells = list[list[str]]
AVERAGES = ("macro_average", "micro_average")
_NOTHING = "–"


def score_table(reports: Mapping[str, Report]) -> Cells:
    """A line per benchmark and average: the metrics of every benchmark, with intervals, and how many were skipped.

    Args:
        reports: By benchmark, see ``SuiteScores.compute``.

    Returns:
        Header and lines.
    """
    metrics = list(dict.fromkeys(name for report in reports.values() for name in report.metrics if is_general(name)))
    skipped = any(report.counts.get("skipped") for report in reports.values())
    counted = ["items", "skipped"] if skipped else ["items"]
    sizes = {report.counts.get("samples", 0) for report in reports.values()} - {0}
    majority = f"majority@{sizes.pop()}" if len(sizes) == 1 else "majority"
    lines = [["benchmark", *counted, *(majority if name == "majority" else _title(name) for name in metrics)]]
    for benchmark, report in reports.items():
        counts = [str(report.counts.get(count, _NOTHING)) for count in counted]
        cells = [format_estimate(report.metrics[m]) if m in report.metrics else _NOTHING for m in metrics]
        lines.append([_title(benchmark), *counts, *cells])
    return lines


def detail_table(reports: Mapping[str, Report]) -> Cells:
    """A line per metric that a benchmark has of its own; the header alone if there is none."""
    lines = [["benchmark", "metric", "value", "of"]]
    for benchmark, report in reports.items():
        for metric, estimate in report.metrics.items():
            if not is_general(metric):
                size = _NOTHING if estimate is None else str(estimate.size)
                lines.append([benchmark, metric, format_estimate(estimate), size])
    return lines


def comparison_table(comparisons: Mapping[tuple[str, str], Comparison]) -> Cells:
    """A header, and a line per benchmark and metric of what ``compare_stores`` found."""
    lines = [["benchmark", "metric", "items", "before", "after", "difference", "gained / lost", "p"]]
    for (benchmark, metric), found in comparisons.items():
        means = [f"{100 * value:.1f}" for value in (found.before, found.after)]
        changed = _NOTHING if found.gained is None else f"{found.gained} / {found.lost}"
        p_value = _NOTHING if found.p_value is None else f"{found.p_value:.3g}"
        size = _NOTHING if benchmark == "macro_average" else str(found.difference.size)
        difference = format_difference(found.difference)
        lines.append([_title(benchmark), _title(metric), size, *means, difference, changed, p_value])
    return lines


def format_difference(estimate: Estimate) -> str:
    """Write a difference of fractions in percentage points, with its interval.

    Example:
        >>> format_difference(Estimate(0.051, -0.01, 0.11, size=200))
        '+5.1 [-1.0, +11.0]'
    """
    return f"{100 * estimate.value:+.1f} [{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}]"


def is_general(metric: str) -> bool:
    """Whether any benchmark has this metric, and not one alone."""
    return metric in ("rule_accuracy", "wrong_claims", "pass@1", "majority") or metric.startswith("judge_accuracy/")


def as_markdown(cells: Cells) -> str:
    r"""Write a table as Markdown.

    Example:
        >>> print(as_markdown([["benchmark", "items"], ["a|b", "3"]]))
        | benchmark | items |
        |---|---|
        | a\|b | 3 |
    """
    lines = ["| " + " | ".join(map(markdown_text, line)) + " |" for line in cells]
    return "\n".join([lines[0], "|" + "---|" * len(cells[0]), *lines[1:]])


def as_rich(cells: Cells, title: str) -> Table:
    """The table for a terminal, where an interval may go below its value but is not broken."""
    table = Table(title=Text(title), box=SIMPLE_HEAD, padding=0)
    lines = [[cell.replace(", ", ",") for cell in line] for line in cells]
    for index, column in enumerate(zip(*lines, strict=True)):
        longest = max(len(word) for cell in column for word in (cell.split() if index else [cell]))
        table.add_column(Text(column[0]), justify="right" if index else "left", min_width=longest)
    for line in lines[1:]:
        table.add_row(*map(Text, line))  # not markup, of which "[nan,nan]" would be a tag
    return table


def as_json(reports: Mapping[str, Report]) -> dict[str, Any]:
    """The reports as plain values; null where a metric is unavailable, or NaN, which JSON does not know."""

    def plain(estimate: Estimate) -> dict[str, float | None]:
        return {name: None if math.isnan(value) else value for name, value in estimate._asdict().items()}

    return {
        benchmark: {
            "metrics": {name: None if mean is None else plain(mean) for name, mean in report.metrics.items()},
            "counts": report.counts,
        }
        for benchmark, report in reports.items()
    }


def _title(name: str) -> str:
    """``judge_accuracy/glm`` reads "judge accuracy: glm"."""
    kind, _, judge = name.partition("/")
    words = kind.replace("_", " ") if kind in (*AVERAGES, "rule_accuracy", "wrong_claims", "judge_accuracy") else kind
    return f"{words}: {judge}" if judge else words
