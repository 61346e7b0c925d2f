"""Which plots the sections of the report have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.plots import bars, heat_maps, sideways_bars
from benchmarks.tables import middle

Figures = Mapping[str, Any]
LONGEST_NAME = 60
_RATES = [("tokens/s", "rollout", "Rollout, sequences x tokens"), ("images/hour", "votes", "Votes")]


def draw_section(name: str, figures: Figures, folder: Path) -> list[Path]:
    """Draw a section's plots into a folder; returns their paths."""
    return _DRAWN[name](figures, folder) if name in _DRAWN else []


def _draw_step(figures: Figures, folder: Path) -> list[Path]:
    stages = list(dict.fromkeys(stage for row in figures["rows"].values() for stage in row))
    rows = {
        stage: {name: middle(row[stage]) for name, row in figures["rows"].items() if stage in row} for stage in stages
    }
    path = folder / f"step-{figures['shape']['dtype']}.svg"
    bars(rows, "seconds", path, f"Seconds by stage, {figures['shape']['dtype']}")
    return [path]


def _draw_surface(figures: Figures, folder: Path) -> list[Path]:
    title = f"Update, packed against padded ({figures['model']}, {figures['dtype']})"
    heat_maps(figures["cells"], folder / "surface.svg", title)
    return [folder / "surface.svg"]


def _draw_rollout(figures: Figures, folder: Path) -> list[Path]:
    paths = []
    for model, rows in figures["models"].items():
        for unit, stem, title in _RATES:
            chosen = {
                label.removesuffix(f", {unit}"): {engine: middle(value) for engine, value in row.items()}
                for label, row in rows.items()
                if label.endswith(unit)
            }
            paths.append(folder / f"{stem}-{model}.svg")
            bars(chosen, unit, paths[-1], f"{title}, {model}")
    return paths


def _draw_loop(figures: Figures, folder: Path) -> list[Path]:
    rows = {name: {"tokens/s": middle(row["tokens_per_second"])} for name, row in figures["rows"].items()}
    bars(rows, "tokens per second", folder / "loop.svg", "The embedded default")
    return [folder / "loop.svg"]


def _draw_gpu(figures: Figures, folder: Path) -> list[Path]:
    rows = {
        model: {path: middle(row["seconds"]) for path, row in held["updates"].items() if "seconds" in row}
        for model, held in figures["models"].items()
    }
    bars(rows, "seconds of an update", folder / "gpu.svg", "Large models")
    return [folder / "gpu.svg"]


def _draw_head(figures: Figures, folder: Path) -> list[Path]:
    rows = {
        dtype: {way: middle(row["growth_mib"]) for way, row in ways.items()} for dtype, ways in figures["rows"].items()
    }
    bars(rows, "MiB added at the peak", folder / "head.svg", f"Head, V = {figures['shape']['V']:,}")
    return [folder / "head.svg"]


def _draw_profile(figures: Figures, folder: Path) -> list[Path]:
    shares = {row["name"][:LONGEST_NAME]: row["share"] for row in figures["operators"]}
    sideways_bars(shares, "share of the time of an update", folder / "operators.svg", "Operators of an update")
    return [folder / "operators.svg"]


def _draw_clustering(figures: Figures, folder: Path) -> list[Path]:
    rows = {
        name.replace("_", " "): {way: middle(value) for way, value in row.items()}
        for name, row in figures["seconds"].items()
    }
    bars(rows, "seconds", folder / "clustering.svg", "Clustering of questions", logarithmic=True)
    return [folder / "clustering.svg"]


_DRAWN: dict[str, Callable[[Figures, Path], list[Path]]] = {
    "step": _draw_step,
    "step_float32": _draw_step,
    "surface": _draw_surface,
    "rollout": _draw_rollout,
    "loop": _draw_loop,
    "head": _draw_head,
    "profile": _draw_profile,
    "clustering": _draw_clustering,
    "gpu": _draw_gpu,
}
