"""``python -m benchmarks.report``: writes ``docs/performance.md`` and its plots from ``benchmarks/results.json``.

Every number in the document is one of the file's, or a ratio of two of them. A section that the file lacks is stated
as not measured. The prose stands in ``benchmarks.sections``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS, load
from benchmarks.sections import SECTIONS, Section
from benchmarks.tables import number, table
from benchmarks.targets import TARGETS, Target

DOCUMENT = Path(__file__).parents[1] / "docs" / "performance.md"
HEAD = """# Performance

Made by `python -m benchmarks.report` from `benchmarks/results.json`; do not edit. `make bench` measures everything
again, one process after another. Seconds are medians of alternating rounds after one that warms up, with
[lowest … highest].
"""

Draw = Callable[[str, Mapping[str, Any], Path], list[Path]]


def write_report(results: Path = RESULTS, document: Path = DOCUMENT, draw: Draw | None = None) -> None:
    """Write the document, and beside it a directory of plots with its name.

    Args:
        results: The recorded figures.
        document: Markdown file to write.
        draw: Draws the plots of a section into a directory; None leaves plots out.
    """
    recorded = load(results)
    directory = document.with_suffix("")
    texts = [HEAD, headline(recorded)]
    for name, section in SECTIONS.items():
        held = recorded["sections"].get(name)
        plots = draw(name, held["figures"], directory) if draw and held else []
        texts.append(describe(section, held, [f"![{p.stem}]({directory.name}/{p.name})" for p in plots]))
    document.parent.mkdir(parents=True, exist_ok=True)
    document.write_text("\n".join(texts), encoding="utf-8")


def headline(recorded: Mapping[str, Any]) -> str:
    """The table of all keys: value, target, and whether it is met."""
    others = sorted(recorded.keys() - TARGETS.keys() - {"sections"})
    known = TARGETS | {name: Target("") for name in others}
    rows = []
    for name, target in known.items():
        value = recorded.get(name)
        shown = "" if value is None else number(value)
        rows.append([f"`{name}`", target.meaning, shown, target.text(), target.verdict(value)])
    return "## Headline\n\n" + table(["key", "meaning", "value", "target", "met"], rows)


def describe(section: Section, held: Mapping[str, Any] | None, plots: list[str]) -> str:
    """One section of the document."""
    if held is None:
        return f"## {section.title}\n\n{section.prose}\n\nNot measured.\n"
    made = f"`{held['command']}` on {_machine(held['machine'])}."
    parts = [f"## {section.title}", section.prose, made, section.tables(held["figures"]).strip(), *plots]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Write the document with its plots."""
    from benchmarks.drawing import draw_section

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    options = parser.parse_args()
    write_report(options.results, options.document, draw_section)


def _machine(machine: Mapping[str, Any]) -> str:
    accelerator = f"{machine['accelerator']}, " if "accelerator" in machine else ""
    return (
        f"{accelerator}{machine['processor']} ({machine['instructions']}), {machine['cores']} cores, "
        f"{machine['threads']} threads, {machine['memory_gib']} GiB, torch {machine['torch']}, "
        f"transformers {machine['transformers']}"
    )


if __name__ == "__main__":
    main()
