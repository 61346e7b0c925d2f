"""The page of a study: tables with intervals over seeds, and nothing that the runs did not log."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from examples.study.logs import ACCURACY, KEPT, SAMPLED, Row
from examples.study.plan import Arm, Study
from visplay.statistics.intervals import Estimate, estimate_mean_of_runs

BLIND = "answered_blind"
METRICS = {
    SAMPLED: "Sampled answers",
    "heldout_greedy": "Greedy answers",
    "heldout_majority": "Majority of sampled answers",
    "compositional_greedy": "Combinations never seen, greedy",
    "hallucination_rate": "Hallucination: wrong claims about what is not there",
    BLIND: "Right answers from the description alone",
    "whole": "Sampled descriptions that leave nothing out and add nothing",
    "silver_accuracy": "Labels that are right",
    "estimated_silver_accuracy": "Labels that are right, estimated without the truth",
    "families": "Families among the kept questions, exp of the entropy",
}
"""Names in a row, with what tables call them."""
_COUNTS = ("families",)

Runs = Mapping[tuple[str, int], Sequence[Row]]
"""The rows of each finished run, by the name of its arm and its seed; the base's first."""


class Results:
    """What the finished runs of a study say; one that ended before its arm's last iteration stays as it was then.

    Args:
        study: The study.
        runs: Its finished runs.
    """

    def __init__(self, study: Study, runs: Runs) -> None:
        self.study = study
        lengths = {arm.name: study.length(arm) + 1 for arm in study.arms}
        self.runs: Runs = {
            (name, seed): [*rows, *rows[-1:] * (lengths[name] - len(rows))] for (name, seed), rows in runs.items()
        }

    def seeds(self, *arms: str) -> list[int]:
        """The seeds with which all of some arms are finished."""
        return [seed for seed in self.study.seeds if all((arm, seed) in self.runs for arm in arms)]

    def last(self, *arms: str) -> int:
        """The last iteration that all of some arms have."""
        return min(self.study.length(self.study.arm(arm)) for arm in arms)

    def estimate(self, arm: str, iteration: int, metric: str) -> Estimate | None:
        """The mean over seeds with its interval; None where no run has the metric, or the arm no such iteration."""
        rows = [run[iteration] for seed in self.seeds(arm) if iteration < len(run := self.runs[arm, seed])]
        none = 0.0 if metric.startswith(KEPT) else None  # of a family
        values = [row.get(metric, none if "families" in row else None) for row in rows]
        known = [value for value in values if value is not None]
        return estimate_mean_of_runs(known) if known else None

    def difference(self, first: str, second: str, iteration: int, metric: str = SAMPLED) -> Estimate:
        """The first less the second, seed by seed."""
        pairs = [(self.runs[first, seed], self.runs[second, seed]) for seed in self.seeds(first, second)]
        return estimate_mean_of_runs([one[iteration][metric] - other[iteration][metric] for one, other in pairs])

    def at_tokens(self, arm: str, tokens: float) -> Estimate:
        """Sampled accuracy when so many tokens were sampled and learned, linear between two iterations."""
        curves = [self.runs[arm, seed] for seed in self.seeds(arm)]
        return estimate_mean_of_runs(
            [float(np.interp(tokens, [total_tokens(r) for r in c], [r[SAMPLED] for r in c])) for c in curves]
        )


def total_tokens(row: Row) -> float:
    """Tokens that were sampled and learned from up to an iteration."""
    return row["sampled_tokens"] + row["learned_tokens"]


def write_page(results: Results, command: str, picture: str) -> str:
    """The whole page, in Markdown.

    Args:
        results: Of the study.
        command: What made it.
        picture: Path of the curves, from the page.
    """
    study, total = results.study, len(results.study.arms) * len(results.study.seeds)
    head = [
        "# Study",
        f"Written by `{command}` from the logs of {len(results.runs)} of {total} runs: seeds "
        f"{', '.join(map(str, study.seeds))}, {study.iterations} iterations where no other number is said. Fractions "
        "are per cent, the mean over seeds with Student's 95 % interval in brackets. What each metric means: "
        "[metrics.md](metrics.md).",
        f"![Sampled answers by iteration]({picture})",
    ]
    parts = [part for name in dict.fromkeys(arm.table for arm in study.arms) for part in _section(results, name)]
    return "\n\n".join([*head, *parts, *_comparisons(results), *_costs(results), *_settings(study)]) + "\n"


def _section(results: Results, name: str) -> list[str]:
    """The tables of the arms that stand together: the first ones' by iteration and family, the others' in short."""
    study = results.study
    arms = [arm for arm in study.arms if arm.table == name and results.seeds(arm.name)]
    if not arms:
        return []
    first, longest = name == study.arms[0].table, max(map(study.length, arms))
    last = results.last(*(arm.name for arm in arms))
    known = [metric for metric in METRICS if any(results.estimate(arm.name, last, metric) for arm in arms)]
    parts = [f"## {name}"]
    for metric in known if first else known[:1]:
        lines = [(arm.title, *(_cell(results, arm, i, metric) for i in range(longest + 1))) for arm in arms]
        parts += [f"**{METRICS[metric]}**", _table(["", "base", *map(str, range(1, longest + 1))], lines)]
    if not first:
        lines = [(arm.title, *(_cell(results, arm, last, metric) for metric in known)) for arm in arms]
        return [*parts, f"**After iteration {last}**", _table(["", *(METRICS[metric] for metric in known)], lines)]
    for world in dict.fromkeys(arm.world for arm in arms):
        there = [arm for arm in arms if arm.world == world]
        parts += _by_family(results, there, ACCURACY, "Sampled answers by question family")
        parts += _by_family(results, there, KEPT, "Families of the kept questions")
    return parts


def _by_family(results: Results, arms: Sequence[Arm], prefix: str, title: str) -> list[str]:
    """The last iteration that all of some arms have, and the base where it has any."""
    last = results.last(*(arm.name for arm in arms))
    rows = [row for arm in arms for seed in results.seeds(arm.name) for row in results.runs[arm.name, seed]]
    metrics = sorted({name for row in rows for name in row if name.startswith(prefix)})
    if not metrics:
        return []
    lines = [(arm.title, *(_cell(results, arm, last, metric) for metric in metrics)) for arm in arms]
    base = ("base", *(_cell(results, arms[0], 0, metric) for metric in metrics))
    lines = [base, *lines] if any(cell != "–" for cell in base[1:]) else lines
    return [
        f"**{title}, after iteration {last}**",
        _table(["", *(metric.removeprefix(prefix) for metric in metrics)], lines),
    ]


def _comparisons(results: Results) -> list[str]:
    study, parts = results.study, list[str]()
    known = [
        metric for metric in (SAMPLED, BLIND) if all(metric in row for run in results.runs.values() for row in run)
    ]
    heads = ["", "seeds", *map(str, range(1, study.iterations + 1)), "gain, as a fraction of the other's"]
    for metric in known:
        if lines := [_compared(results, *pair, metric) for pair in study.comparisons if results.seeds(*pair)]:
            note = f"{METRICS[metric]}, seed by seed, in points; in bold where the interval is clear of 0."
            parts += [note, _table(heads, lines)]
    return ["## Comparisons", *parts] if parts else []


def _compared(results: Results, first: str, second: str, metric: str) -> tuple[str, ...]:
    study, last = results.study, results.last(first, second)
    cells = [_clear_of_zero(results.difference(first, second, i, metric)) for i in range(1, last + 1)]
    cells += ["–"] * (study.iterations - last)
    title = f"{study.arm(first).title} less {study.arm(second).title}"
    return title, str(len(results.seeds(first, second))), *cells, _of_gain(results, first, second, metric)


def _of_gain(results: Results, first: str, second: str, metric: str) -> str:
    """What the first gains over the base in all iterations that both have, as a fraction of what the second does."""
    seeds, last, gains = results.seeds(first, second), results.last(first, second), []
    for arm in (first, second):
        rows = [results.runs[arm, seed] for seed in seeds]
        gains.append(float(np.mean([run[last][metric] - run[0][metric] for run in rows])))
    return f"{gains[0] / gains[1]:.2f}" if gains[1] > 0 else "–"


def _costs(results: Results) -> list[str]:
    """Tokens and seconds of a whole run, and accuracy where every arm has had the tokens of the cheapest run."""
    study = results.study
    arms = [arm for arm in study.arms if results.seeds(arm.name)]
    if not arms:
        return []
    least = min(total_tokens(run[-1]) for run in results.runs.values())
    lines = []
    for arm in arms:
        last = study.length(arm)
        found = (results.estimate(arm.name, last, name) for name in ("sampled_tokens", "learned_tokens", "seconds"))
        sampled, learned, seconds = (math.nan if each is None else each.value for each in found)
        counts = (f"{count / 1e6:.3f}" for count in (sampled, learned, sampled + learned))
        lines.append((arm.title, str(last), *counts, _format(results.at_tokens(arm.name, least)), f"{seconds:.0f}"))
    heads = ["", "iterations", "sampled", "learned", "both", f"sampled answers at {least / 1e6:.3f}", "seconds"]
    note = (
        "Means over seeds of a whole run: million tokens of completions, votes and the Questioner's "
        "included, prompts and validation not; seconds without validation, of one thread. At equal tokens, accuracy is "
        "linear between iterations."
    )
    return ["## Cost", note, _table(heads, lines)]


def _settings(study: Study) -> list[str]:
    lines = [(arm.title, f"`{' '.join([*arm.configs, *arm.arguments])}`") for arm in study.arms]
    common = f"All arms: `{' '.join(study.arguments)}`." if study.arguments else ""
    return ["## Settings", *filter(None, [common]), _table(["", "configurations and arguments"], lines)]


def _cell(results: Results, arm: Arm, iteration: int, metric: str) -> str:
    estimate = results.estimate(arm.name, iteration, metric)
    if estimate is None:
        return "–"
    return _format(estimate, 1 if metric in _COUNTS else 100)


def _clear_of_zero(difference: Estimate) -> str:
    clear = difference.low > 0 or difference.high < 0
    return f"**{_format(difference)}**" if clear else _format(difference)


def _format(estimate: Estimate, scale: float = 100) -> str:
    """The mean with its interval, which a single run has not."""
    digits = 1 if scale == 100 else 2
    value, low, high = (f"{scale * each:.{digits}f}" for each in estimate[:3])
    return value if math.isnan(estimate.low) else f"{value} [{low}, {high}]"


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
