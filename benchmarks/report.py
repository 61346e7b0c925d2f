"""``python -m benchmarks.report``: writes what ``results.json`` has into ``docs/performance.md``, and draws its plots.

``--take FILE`` takes the sections of such a file from another machine over before that.

Every number between the page's marks is one of the file's, or a ratio of two of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.results import load, take
from benchmarks.tables import SECTIONS, number, section_tables, table, written

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
TARGETS = {
    "iteration_speedup_vs_trl_fixed": (
        "a whole iteration of the 20 M model, times the images per hour of TRL's",
        "≥ 4",
    ),
    "iteration_speedup_vs_trl_default": (
        "a whole iteration of the embedded default, times the images per hour of TRL's",
        "≥ 3",
    ),
    "update_speedup_vs_trl": ("an update, times as fast as TRL's GRPOTrainer", "≥ 4"),
    "step_speedup_vs_trl": ("a whole step, times as fast as TRL's GRPOTrainer", "≥ 2.5"),
    "update_speedup_vs_padded": ("an update, times as fast as with padded rows", ""),
    "prefix_bound_fraction": (
        "least fraction over the grid of the speed-up that saved tokens and images allow",
        "≥ 0.85",
    ),
    "prefix_bound_fraction_median": ("its median over the grid", ""),
    "update_speedup_vs_trl_float32": ("an update in float32, times as fast as TRL's", ""),
    "step_speedup_vs_trl_float32": ("a whole step in float32, times as fast as TRL's", ""),
    "update_speedup_vs_padded_float32": ("an update in float32, times as fast as with padded rows", ""),
    "rollout_speedup_vs_generate": ("a rollout, times as fast as transformers' generate", ""),
    "votes_speedup_vs_generate": ("votes, times as fast as transformers' generate", "≥ 3"),
    "head_memory_ratio": ("peak memory of the head, lean over full logits", "≤ 0.25"),
    "plan_memory_error": ("measured over planned peak memory of a step, greatest distance from 1", "≤ 0.15"),
    "plan_seconds_error": (
        "measured over planned seconds of stages that were held out, greatest distance from 1",
        "≤ 0.2",
    ),
    "cluster_4096_seconds": ("clustering of 4096 questions, seconds", "≤ 3"),
    "cluster_512x8_seconds": ("clustering of 512 groups of 8 questions, seconds", "≤ 0.5"),
    "overhead_fraction": ("fraction of a step that is neither model nor optimizer nor sampling", "≤ 0.03"),
    "evaluation_ms_per_row": ("evaluating a row besides decoding, prompt and generation, milliseconds", "≤ 2"),
    "evaluation_growth_mib": ("memory that an evaluation adds after a fifth of its rows, MiB", ""),
    "gpu_update_mfu": ("an update of 3B's shape on one GPU, fraction of the measured peak", "≥ 0.5"),
    "gpu_step_tokens_per_second": ("a step of 3B's shape on one GPU, rollout and update: tokens/s", "≥ 7200"),
    "gpu_plan_memory_error": ("measured over planned peak memory on one GPU, greatest distance from 1", "≤ 0.15"),
    "matmul_peak_fraction": ("fraction of the measured peak of matrix products in an update", "≥ 0.2"),
}
"""Of each headline key its meaning, and what it is to reach."""


def write_page(page: str, recorded: Mapping[str, Any]) -> str:
    """The page with the recorded figures between its marks; a section that was not measured says so."""
    texts = {name: _describe(name, recorded["sections"].get(name)) for name in SECTIONS}
    return written(page, headline=headline(recorded), **texts)


def headline(recorded: Mapping[str, Any]) -> str:
    """The table of all keys: value, target, and whether it is met."""
    rows = []
    for name in [*TARGETS, *sorted(recorded.keys() - TARGETS.keys() - {"sections"})]:
        (meaning, target), value = TARGETS.get(name, ("", "")), recorded.get(name)
        shown = "" if value is None else number(value)
        rows.append([f"`{name}`", meaning, shown, target, verdict(target, value)])
    return table(["key", "meaning", "value", "target", "met"], rows)


def verdict(target: str, value: float | None) -> str:
    """Whether a value reaches a target: yes, no, nothing asked (empty), or not measured.

    Example:
        >>> verdict("≥ 3", 3.0), verdict("≤ 3", 3.01)
        ('yes', '**no**')
    """
    if value is None:
        return "not measured"
    if not target:
        return ""
    direction, bound = target.split()
    met = value >= float(bound) if direction == "≥" else value <= float(bound)
    return "yes" if met else "**no**"


def _describe(name: str, measured: Mapping[str, Any] | None) -> str:
    if measured is None:
        return "Not measured."
    machine = measured["machine"]
    accelerator = f"{machine['accelerator']}, " if "accelerator" in machine else ""
    return (
        f"`{measured['command']}` on {accelerator}{machine['processor']} ({machine['instructions']}), "
        f"{machine['cores']} cores, {machine['threads']} threads, {machine['memory_gib']} GiB, torch "
        f"{machine['torch']}, transformers {machine['transformers']}.\n\n{section_tables(name, measured['figures'])}"
    )


def main() -> None:
    """Write the page, and its plots into the directory of its name."""
    from benchmarks.plots import draw

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--take", type=Path, metavar="FILE", help="results of another machine, to be taken over")
    if (taken := parser.parse_args().take) is not None:
        take(taken)
    recorded = load()
    PAGE.write_text(write_page(PAGE.read_text(encoding="utf-8"), recorded), encoding="utf-8")
    for name, section in recorded["sections"].items():
        draw(name, section["figures"], PAGE.with_suffix(""))


if __name__ == "__main__":
    main()
