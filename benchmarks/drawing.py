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


def draw_section(name: str, figures: Figures, directory: Path) -> list[Path]:
    """Draw a section's plots into a directory; returns their paths."""
    return _DRAWN[name](figures, directory) if name in _DRAWN else []


def _draw_step(figures: Figures, directory: Path) -> list[Path]:
    stages = list(dict.fromkeys(stage for row in figures["rows"].values() for stage in row))
    rows = {
        stage: {name: middle(row[stage]) for name, row in figures["rows"].items() if stage in row} for stage in stages
    }
    path = directory / f"step-{figures['shape']['dtype']}.svg"
    bars(rows, "seconds", path, f"Seconds by stage, {figures['shape']['dtype']}")
    return [path]


def _draw_surface(figures: Figures, directory: Path) -> list[Path]:
    title = f"Update, packed against padded ({figures['model']}, {figures['dtype']})"
    heat_maps(figures["cells"], directory / "surface.svg", title)
    return [directory / "surface.svg"]


def _draw_rollout(figures: Figures, directory: Path) -> list[Path]:
    paths = []
    for model, rows in figures["models"].items():
        for unit, stem, title in _RATES:
            chosen = {
                label.removesuffix(f", {unit}"): {engine: middle(value) for engine, value in row.items()}
                for label, row in rows.items()
                if label.endswith(unit)
            }
            paths.append(directory / f"{stem}-{model}.svg")
            bars(chosen, unit, paths[-1], f"{title}, {model}")
    return paths


def _draw_loop(figures: Figures, directory: Path) -> list[Path]:
    rows = {name: {"tokens/s": middle(row["tokens_per_second"])} for name, row in figures["rows"].items()}
    bars(rows, "tokens per second", directory / "loop.svg", "The embedded default")
    return [directory / "loop.svg"]


def _draw_gpu(figures: Figures, directory: Path) -> list[Path]:
    rows = {
        model: {path: middle(row["seconds"]) for path, row in held["updates"].items() if "seconds" in row}
        for model, held in figures["models"].items()
    }
    bars(rows, "seconds of an update", directory / "gpu.svg", "Large models")
    return [directory / "gpu.svg"]


def _draw_head(figures: Figures, directory: Path) -> list[Path]:
    rows = {
        dtype: {way: middle(row["growth_mib"]) for way, row in ways.items()} for dtype, ways in figures["rows"].items()
    }
    bars(rows, "MiB added at the peak", directory / "head.svg", f"Head, V = {figures['shape']['V']:,}")
    return [directory / "head.svg"]


def _draw_profile(figures: Figures, directory: Path) -> list[Path]:
    shares = {row["name"][:LONGEST_NAME]: row["share"] for row in figures["operators"]}
    sideways_bars(shares, "fraction of the time of an update", directory / "operators.svg", "Operators of an update")
    return [directory / "operators.svg"]


def _draw_clustering(figures: Figures, directory: Path) -> list[Path]:
    rows = {
        name.replace("_", " "): {way: middle(value) for way, value in row.items()}
        for name, row in figures["seconds"].items()
    }
    bars(rows, "seconds", directory / "clustering.svg", "Clustering of questions", logarithmic=True)
    return [directory / "clustering.svg"]


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
