"""The picture of a study: sampled accuracy by iteration with intervals; matplotlib is in the extra ``bench``."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from examples.study.logs import SAMPLED
from examples.study.tables import METRICS, Results

_STYLE = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "visplay"}


def draw_curves(results: Results, path: Path) -> None:
    """Draw a panel for each of the study's tables, a curve for each arm; the band is the interval over seeds."""
    study = results.study
    tables = list(dict.fromkeys(arm.table for arm in study.arms if results.seeds(arm.name)))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5.2 * len(tables), 4.6), layout="constrained")
        panels = figure.subplots(1, len(tables), squeeze=False, sharey=True)[0]
        for axes, table in zip(panels, tables, strict=True):
            for arm in (arm for arm in study.arms if arm.table == table and results.seeds(arm.name)):
                iterations = range(study.length(arm) + 1)
                found = [results.estimate(arm.name, iteration, SAMPLED) for iteration in iterations]
                value, low, high = zip(*((100 * e.value, 100 * e.low, 100 * e.high) for e in found if e), strict=True)
                (line,) = axes.plot(iterations, value, marker="o", markersize=3, label=arm.title)
                axes.fill_between(iterations, low, high, alpha=0.15, color=line.get_color(), linewidth=0)
            axes.set(title=table, xlabel="iteration", xticks=range(study.iterations + 1))
            axes.legend(frameon=False, fontsize=8)
        panels[0].set_ylabel(f"{METRICS[SAMPLED]}, % right")
        figure.savefig(path, metadata={"Date": None})
