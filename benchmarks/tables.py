"""Measured figures as tables in Markdown: those of each section of ``docs/performance.md``, and marks in a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from visplay.statistics.intervals import Estimate, format_estimate

Figures = Mapping[str, Any]


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


def written(page: str, **texts: str) -> str:
    """The page with texts between their marks, ``<!-- name: begin -->`` and ``<!-- name: end -->``.

    Raises:
        ValueError: The page lacks a mark.
    """
    for name, text in texts.items():
        begin, end = (f"<!-- {name}: {word} -->" for word in ("begin", "end"))
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"page: it has no {begin} followed by {end}")
        page = f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}"
    return page


def section_tables(section: str, figures: Figures) -> str:
    """The tables of a section; figures are as ``results.json`` has them."""
    return "\n".join(_TABLES[section](figures))


def _stages(figures: Figures) -> str:
    return grid({f"`{name}`": {"seconds": seconds} for name, seconds in figures["seconds"].items()}, "stage")


def _step(figures: Figures) -> list[str]:
    rows, ours = figures["rows"], figures["rows"]["ours"]
    ratios = {
        name: {stage: middle(row[stage]) / middle(ours[stage]) for stage in row if stage in ours}
        for name, row in rows.items()
        if name != "ours"
    }
    return [facts(figures["shape"]), grid(rows, "seconds"), grid(ratios, "times as long as ours")]


def _whole_iteration(figures: Figures) -> list[str]:
    parts = []
    titles = {"images_per_hour": "images per hour", "cpu_seconds": "processor, all stages", "peak_mib": "peak, MiB"}
    for name, work in figures["workloads"].items():
        lines: dict[str, dict[str, Any]] = {}
        for way, row in work["rows"].items():
            hourly, *further = ({title: row[figure]} for figure, title in titles.items())
            for title, value in (hourly | row["seconds"] | further[0] | further[1]).items():
                lines.setdefault(title, {})[way] = value
        for line in lines.values():
            line |= {f"{way} / ours": middle(line[way]) / middle(line["ours"]) for way in [*line][1:]}
        told = {"images": work["images"], "rounds": work["rounds"]} | work.get("shape", {})
        parts += [f"Workload `{name}`: {facts(told)}", grid(lines, "seconds")]
        if "shape" not in work:
            parts.append(table(["held out, after", *work["rows"]], _accuracies(work["accuracy"])))
    return parts


def _accuracies(accuracy: Mapping[str, Sequence[Mapping[str, Mapping[str, float]]]]) -> list[list[str]]:
    """Every score in per cent with its interval, one line for each round."""
    ways = list(accuracy.values())
    return [
        [f"{score}, round {n + 1}", *(format_estimate(Estimate(**way[n][score])) for way in ways)]
        for score in ways[0][0]
        for n in range(len(ways[0]))
    ]


def _surface(figures: Figures) -> list[str]:
    columns = ["G", "P", "T", "ours", "padded", "rounds", "speedup", "bound", "fraction"]
    cells = sorted(figures["cells"], key=lambda cell: (cell["G"], cell["P"], cell["T"]))
    lines = [[number(cell[name]) for name in columns] for cell in cells]
    return [facts({name: figures[name] for name in ("model", "dtype")}), table(columns, lines)]


def _evaluation(figures: Figures) -> list[str]:
    told = facts({"rows": figures["rows"], "milliseconds_per_row": figures["milliseconds_per_row"]})
    return [told, f"Memory grows by {number(figures['growth_mib'])} MiB.\n", _stages(figures)]


def _head(figures: Figures) -> list[str]:
    rows = {f"{way}, {dtype}": row for dtype, ways in figures["rows"].items() for way, row in ways.items()}
    return [facts(figures["shape"]), grid(rows, "way"), grid(figures["ratios"], "lean over full")]


def _clustering(figures: Figures) -> list[str]:
    told = f"Peak memory of ours: {number(figures['peak_mib'])} MiB. "
    told += f"The released way was timed on {figures['released_questions_timed']} questions.\n"
    return [told, grid(figures["seconds"], "seconds")]


def _profile(figures: Figures) -> list[str]:
    update = {
        dtype: {
            "peak, GFLOP/s": max(figures["peak"][dtype].values()) / 1e9,
            "GFLOP of an update": row["flops"] / 1e9,
            "seconds": row["seconds"],
            "fraction of the peak": row["fraction"],
        }
        for dtype, row in figures["update"].items()
    }
    operators = {
        f"`{row['name']}`": {name: row[name] for name in ("seconds", "fraction")} for row in figures["operators"]
    }
    overhead = figures["overhead"]
    told = f"Overhead: {overhead['fraction']:.2%} of a step, a mean over {overhead['steps']} steps.\n"
    stages = {stage: {"seconds of a step": seconds} for stage, seconds in overhead["seconds"].items()}
    return [facts(figures["shape"]), grid(update, "precision"), grid(operators, "operator"), told, grid(stages)]


def _gpu(figures: Figures) -> list[str]:
    lines = [
        [f"`{name}`", number(goal["value"]) if "value" in goal else "", goal["target"], goal["met"]]
        for name, goal in figures["goals"].items()
    ]
    parts = [table(["goal", "value", "target", "met"], lines)]
    if "tests" in figures:
        parts.append(f"Tests: {facts(figures['tests'])}")
    for name, model in figures["models"].items():
        parts.append(f"Model {name}: {facts(model['shape'])}")
        parts += [f"{part}: {found['error']}.\n" for part, found in model.items() if "error" in found]
        updates = {path: row for path, row in model.get("updates", {}).items() if path != "error"}
        parts += [f"{path}: {row['error']}.\n" for path, row in updates.items() if "error" in row]
        if rows := {path: row for path, row in updates.items() if "error" not in row}:
            parts.append(grid(rows, "update"))
        parts += [
            _numbers(part, model[part]) for part in ("step", "plan", "launches", "rollout", "peak") if part in model
        ]
    return parts


def _numbers(part: str, found: Figures) -> str:
    """A line for each number; those of a mapping, seconds by stage, under their own names."""
    rows: dict[str, Any] = {}
    for name, value in found.items():
        if isinstance(value, Mapping) and "median" not in value:
            rows |= {f"{name}, {inner}": {"value": each} for inner, each in value.items()}
        elif not isinstance(value, str):
            rows[name] = {"value": value}
    return grid(rows, part)


def _costs(figures: Figures) -> list[str]:
    columns = ("seconds", "planned", "measured / planned")
    parts = []
    for held_out, title in {False: "fitted", True: "held out"}.items():
        rows = {n: {c: r[c] for c in columns} for n, r in figures["rows"].items() if r["held_out"] == held_out}
        worst = max(abs(row["measured / planned"] - 1) for row in rows.values())
        parts += [grid(rows, title), f"At most {worst:.0%} from what is planned.\n"]
    rates = {kind: {f"{n} a second": value for n, value in row.items()} for kind, row in figures["rates"].items()}
    return [*parts, grid(rates)]


_TABLES = {
    "whole_iteration": _whole_iteration,
    "step": _step,
    "step_float32": _step,
    "surface": _surface,
    "rollout": lambda figures: [f"Model {name}:\n\n{grid(rows)}" for name, rows in figures["models"].items()],
    "loop": lambda figures: [facts({n: figures[n] for n in ("prompts", "G", "T")}), grid(figures["rows"], "part")],
    "iteration": lambda figures: [facts({"runs": figures["rounds"]}), _stages(figures)],
    "start": lambda figures: [facts({n: figures[n] for n in ("rounds", "modules")}), _stages(figures)],
    "head": _head,
    "profile": _profile,
    "clustering": _clustering,
    "evaluation": _evaluation,
    "memory": lambda figures: [grid(figures["rows"], "form")],
    "gpu": _gpu,
    "costs": _costs,
}
SECTIONS = tuple(_TABLES)
