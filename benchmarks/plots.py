"""Plots of measured figures, as SVG; the only module that imports matplotlib."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.tables import Figures, middle

WORTHLESS = 1.05
"""A speed-up up to this is worth nothing."""
_COLOURS = ["#2b6ca3", "#e08e3c", "#7a9a4c", "#9a5a8c", "#8a8a8a"]
_STYLE = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "visplay"}
_RATES = [("tokens/s", "rollout", "Rollout, sequences x tokens"), ("images/hour", "votes", "Votes")]
Rows = Mapping[str, Mapping[str, float]]


def draw(section: str, figures: Figures, directory: Path) -> list[Path]:
    """Draw a section's plots into a directory; returns their paths."""
    paths = []
    directory.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(_STYLE):
        for name, figure in _figures(section, figures).items():
            paths.append(directory / f"{name}.svg")
            figure.savefig(paths[-1], dpi=110, metadata={"Date": None})
    return paths


def _figures(section: str, figures: Figures) -> dict[str, Figure]:
    """The plots of a section by the names of their files."""
    rows, shape = figures.get("rows"), figures.get("shape")
    if section.startswith("step"):
        seconds = _middles(dict.fromkeys(stage for row in rows.values() for stage in row), rows)
        return {f"step-{shape['dtype']}": bars(seconds, "seconds", f"Seconds by stage, {shape['dtype']}")}
    if section == "surface":
        title = f"Update, packed against padded ({figures['model']}, {figures['dtype']})"
        return {"surface": heat_maps(figures["cells"], title)}
    if section == "rollout":
        return {
            f"{stem}-{model}": bars(_rates(rates, unit), unit, f"{title}, {model}")
            for model, rates in figures["models"].items()
            for unit, stem, title in _RATES
        }
    if section == "loop":
        tokens = {name: {"tokens/s": middle(row["tokens_per_second"])} for name, row in rows.items()}
        return {"loop": bars(tokens, "tokens per second", "The embedded default")}
    if section == "head":
        growth = {dtype: {way: middle(r["growth_mib"]) for way, r in ways.items()} for dtype, ways in rows.items()}
        return {"head": bars(growth, "MiB added at the peak", f"Head, V = {shape['V']:,}")}
    if section == "profile":
        return {"operators": operators({row["name"][:60]: row["fraction"] for row in figures["operators"]})}
    if section == "clustering":
        seconds = {n.replace("_", " "): {w: middle(v) for w, v in row.items()} for n, row in figures["seconds"].items()}
        return {"clustering": bars(seconds, "seconds", "Clustering of questions", logarithmic=True)}
    if section == "gpu":
        updates = {model: measured["updates"].items() for model, measured in figures["models"].items()}
        seconds = {m: {p: middle(row["seconds"]) for p, row in rs if "seconds" in row} for m, rs in updates.items()}
        return {"gpu": bars(seconds, "seconds of an update", "Large models")}
    return {}


def _middles(names: Iterable[str], rows: Mapping[str, Figures]) -> Rows:
    """Of each name its medians, by the rows that have it."""
    return {name: {key: middle(row[name]) for key, row in rows.items() if name in row} for name in names}


def _rates(rows: Mapping[str, Figures], unit: str) -> Rows:
    """The rows of a unit, whose labels end in it."""
    chosen = {label.removesuffix(f", {unit}"): row for label, row in rows.items() if label.endswith(unit)}
    return {label: {engine: middle(value) for engine, value in row.items()} for label, row in chosen.items()}


def bars(rows: Rows, label: str, title: str, *, logarithmic: bool = False) -> Figure:
    """Upright bars, one cluster per row and one colour per column, each with its number on top.

    Args:
        rows: Values of each row by column; a missing one leaves a gap.
        label: What the values are, with the unit.
        title: Of the plot.
        logarithmic: Whether the axis is.
    """
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    figure = Figure(figsize=(max(6.0, 0.62 * len(rows) * len(columns) + 1.5), 4.2), layout="constrained")
    axes = figure.add_subplot()
    width = 0.84 / len(columns)
    for index, column in enumerate(columns):
        known = [(i, row[column]) for i, row in enumerate(rows.values()) if column in row]
        at = [i + (index - (len(columns) - 1) / 2) * width for i, _ in known]
        drawn = axes.bar(at, [v for _, v in known], 0.92 * width, label=column, color=_COLOURS[index % 5])
        axes.bar_label(drawn, [f"{v:,.0f}" if v >= 100 else f"{v:.3g}" for _, v in known], fontsize=8, padding=2)
    axes.set_xticks(range(len(rows)), list(rows))
    axes.set(ylabel=label, yscale="log" if logarithmic else "linear", title=title)
    if not logarithmic:
        axes.yaxis.set_major_formatter("{x:,g}")
    axes.margins(y=0.12)
    if len(columns) > 1:
        figure.legend(loc="outside lower center", ncols=min(len(columns), 4), frameon=False)
    return figure


def operators(values: Mapping[str, float]) -> Figure:
    """Bars to the right, the first on top, each with its fraction."""
    figure = Figure(figsize=(8, 0.32 * len(values) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    drawn = axes.barh(list(values), list(values.values()), color=_COLOURS[0])
    axes.bar_label(drawn, [f"{value:.1%}" for value in values.values()], fontsize=8, padding=3)
    axes.invert_yaxis()
    axes.set(xlabel="fraction of the time of an update", title="Operators of an update")
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.margins(x=0.12)
    return figure


def heat_maps(cells: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Speed-up over P and T, one map for each G; a red line fences off what is worth nothing.

    Args:
        cells: Each with P, T, G and ``speedup``.
        title: Of the plot.
    """
    groups, ps, ts = (sorted({cell[name] for cell in cells}) for name in "GPT")
    highest = max(cell["speedup"] for cell in cells)
    size = (max(6.0, len(groups) * (0.72 * len(ts) + 0.9) + 1.0), 0.5 * len(ps) + 1.9)
    figure = Figure(figsize=size, layout="constrained")
    maps = figure.subplots(1, len(groups), squeeze=False)[0]
    for axes, g in zip(maps, groups, strict=True):
        speedups = np.full((len(ps), len(ts)), np.nan)
        for cell in (cell for cell in cells if cell["G"] == g):
            speedups[ps.index(cell["P"]), ts.index(cell["T"])] = cell["speedup"]
        drawn = axes.imshow(speedups, cmap="viridis", vmin=min(1.0, np.nanmin(speedups)), vmax=highest, aspect="auto")
        for (row, column), value in np.ndenumerate(speedups):
            if np.isfinite(value):
                colour = "black" if value > 0.6 * highest else "white"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=9)
        fence(axes, speedups)
        axes.set_xticks(range(len(ts)), ts)
        axes.set_yticks(range(len(ps)), ps)
        axes.set(title=f"G = {g}", xlabel="T, tokens of a completion")
    maps[0].set_ylabel("P, tokens of a prompt")
    figure.colorbar(drawn, ax=maps, label="times as fast as padded")
    figure.suptitle(title)
    return figure


def fence(axes: Axes, speedups: np.ndarray) -> None:
    """A line around all cells that are worth nothing, along their edges to those that are not."""
    worthless = np.pad(speedups <= WORTHLESS, 1)
    for row, column in np.argwhere(worthless) - 1:
        for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            if not worthless[row + 1 + down, column + 1 + right]:
                centre, half = (column + right / 2, row + down / 2), (down / 2, right / 2)
                xs, ys = ([at - each, at + each] for at, each in zip(centre, half, strict=True))
                axes.plot(xs, ys, color="#d62728", linewidth=3, clip_on=False, solid_capstyle="round")
