"""Plots of measured figures, as SVG; the only module that imports matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WORTHLESS = 1.05
"""A speed-up up to this is worth nothing."""
_COLOURS = ["#2b6ca3", "#e08e3c", "#7a9a4c", "#9a5a8c", "#8a8a8a"]
_STYLE = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "visplay"}


def bars(
    rows: Mapping[str, Mapping[str, float]], label: str, path: Path, title: str = "", *, logarithmic: bool = False
) -> None:
    """Upright bars, one cluster per row and one colour per column, each with its number on top.

    Args:
        rows: Values of each row by column; a missing one leaves a gap.
        label: What the values are, with the unit.
        path: The image.
        title: Of the image.
        logarithmic: Whether the axis is.
    """
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(max(6.0, 0.62 * len(rows) * len(columns) + 1.5), 4.2), layout="constrained")
        axes = figure.add_subplot()
        width = 0.84 / len(columns)
        for place, column in enumerate(columns):
            held = [(i, row[column]) for i, row in enumerate(rows.values()) if column in row]
            at = [i + (place - (len(columns) - 1) / 2) * width for i, _ in held]
            drawn = axes.bar(at, [v for _, v in held], 0.92 * width, label=column, color=_COLOURS[place % 5])
            axes.bar_label(drawn, [_short(v) for _, v in held], fontsize=8, padding=2)
        axes.set_xticks(range(len(rows)), list(rows))
        axes.set_ylabel(label)
        axes.set_yscale("log" if logarithmic else "linear")
        if not logarithmic:
            axes.yaxis.set_major_formatter("{x:,g}")
        axes.margins(y=0.12)
        if len(columns) > 1:
            figure.legend(loc="outside lower center", ncols=min(len(columns), 4), frameon=False)
        _save(figure, axes, title, path)


def sideways_bars(values: Mapping[str, float], label: str, path: Path, title: str = "") -> None:
    """Bars to the right, the first on top, each with its share."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8, 0.32 * len(values) + 1.2), layout="constrained")
        axes = figure.add_subplot()
        drawn = axes.barh(list(values), list(values.values()), color=_COLOURS[0])
        axes.bar_label(drawn, [f"{value:.1%}" for value in values.values()], fontsize=8, padding=3)
        axes.invert_yaxis()
        axes.set_xlabel(label)
        axes.xaxis.set_major_formatter("{x:.0%}")
        axes.margins(x=0.12)
        _save(figure, axes, title, path)


def heat_maps(cells: Sequence[Mapping[str, Any]], path: Path, title: str = "") -> None:
    """Speed-up over P and T, one map for each G; a red line fences off what is worth nothing.

    Args:
        cells: Each with P, T, G and ``speedup``.
        path: The image.
        title: Of the image.
    """
    groups, ps, ts = (sorted({cell[name] for cell in cells}) for name in "GPT")
    highest = max(cell["speedup"] for cell in cells)
    with mpl.rc_context(_STYLE):
        size = (max(6.0, len(groups) * (0.72 * len(ts) + 0.9) + 1.0), 0.5 * len(ps) + 1.9)
        figure = Figure(figsize=size, layout="constrained")
        maps = figure.subplots(1, len(groups), squeeze=False)[0]
        for axes, g in zip(maps, groups, strict=True):
            grid = np.full((len(ps), len(ts)), np.nan)
            for cell in (cell for cell in cells if cell["G"] == g):
                grid[ps.index(cell["P"]), ts.index(cell["T"])] = cell["speedup"]
            drawn = axes.imshow(grid, cmap="viridis", vmin=min(1.0, np.nanmin(grid)), vmax=highest, aspect="auto")
            _number_cells(axes, grid, highest)
            _fence(axes, grid)
            axes.set_xticks(range(len(ts)), ts)
            axes.set_yticks(range(len(ps)), ps)
            axes.set(title=f"G = {g}", xlabel="T, tokens of an answer")
        maps[0].set_ylabel("P, tokens of a prompt")
        figure.colorbar(drawn, ax=maps, label="times as fast as padded")
        figure.suptitle(title)
        _write(figure, path)


def _number_cells(axes: Axes, grid: np.ndarray, highest: float) -> None:
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value):
            colour = "black" if value > 0.6 * highest else "white"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=9)


def _fence(axes: Axes, grid: np.ndarray) -> None:
    """A line around all cells that are worth nothing, along their edges to those that are not."""
    worthless = np.pad(grid <= WORTHLESS, 1)
    for row, column in np.argwhere(worthless) - 1:
        for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            if not worthless[row + 1 + down, column + 1 + right]:
                middle, half = (column + right / 2, row + down / 2), (down / 2, right / 2)
                xs, ys = ([at - each, at + each] for at, each in zip(middle, half, strict=True))
                axes.plot(xs, ys, color="#d62728", linewidth=3, clip_on=False, solid_capstyle="round")


def _save(figure: Figure, axes: Axes, title: str, path: Path) -> None:
    axes.set_title(title)
    _write(figure, path)


def _write(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
