"""How long grading takes, and how often it is right.

Part of ``make bench``; run it alone: ``python -m benchmarks.grading``. Prints the seconds of voting on 4096 questions
with 10 answers each and of agreement with the silver answers through a ``Grader``, the comparisons, and their shares by
outcome. ``--pairs FILE``, a JSON list of {"kind", "prediction", "gold", "same"}, counts by kind instead what is called
equal and is not, and the other way round.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from visplay.functional import vote
from visplay.functional.rewards.rewards import agreement
from visplay.grading.worker import Grader

SPELLINGS = {
    "integer": ["{n}", "{n}.0", "${n}$", "The answer is {n}.", r"\text{{{n}}}", "{m}", "{m}", "{k}"],
    "decimal": ["{n}.{k}", "{n}.{k}0", "{n}.{m}", "{n}", "about {n}.{k}", "{m}.{k}"],
    "letter": ["A", "(A)", "A.", "B", "(C)", "A. a red car", r"\text{{A}}", "D", "a red car"],
    "unit": ["{n} cm", "{n}cm", r"{n}\text{{ cm}}", "{n} centimeters", "{n}", "{m} cm", "{n} m", "{k} cm"],
    "percent": ["{n}%", r"{n}\%", "{n} percent", "{n}", "0.{n}", "{m}%"],
    "count": ["{n} dogs", "{n}", "There are {n} dogs.", "{n} cats", "{m} dogs", "{n} or {m}"],
    "text": ["a red car", "Red car", "the red car", "red cars", "blue car", "It is a red car.", "truck", "a van {n}"],
    "yes_no": ["Yes", "yes.", "Yes, it is", "No", "no, there are {n}", "not sure"],
    "fraction": [
        r"\frac{{{n}}}{{{m}}}",
        "{n}/{m}",
        r"\dfrac{{{n}}}{{{m}}}",
        r"\frac{{{m}}}{{{n}}}",
        r"\frac{{{n}}}{{{k}}}",
    ],
    "root": [
        r"{k}\sqrt{{{n}}}",
        r"\sqrt{{{n}}} \cdot {k}",
        r"{k}*sqrt({n})",
        r"{m}\sqrt{{{n}}}",
        r"\sqrt{{{n}}}",
        "{k}.{m}",
    ],
    "expression": ["x^2+{n}x", "x(x+{n})", r"x^{{2}} + {n}x", "x^2-{n}x", "{n}x + x^2", "y = x^2+{n}x", "{n}x"],
    "equation": ["x={n}", "{n}", "x = {n}", "x = {m}", r"x = \pm {n}", "y = {n}"],
    "tuple": ["({n},{m})", "({n}, {m})", r"\left({n}, {m}\right)", "({m}, {n})", "({n}, {k})", "{n}, {m}"],
    "interval": ["[{k},{n}]", "[{k}, {n}]", "[{k}, {n})", r"{k} \le x \le {n}", "({k}, {n})"],
    "unparsable": [r"\frac{{{n}", "{n}-{m}-{k}", "((({n}", r"\foo{{{n}}} + {m}", "9^{{9^{{9^{n}}}}}", "see figure {n}"],
}
WEIGHTS = [16, 6, 20, 8, 5, 6, 12, 6, 5, 3, 3, 3, 3, 2, 2]


def make_answers(questions: int, votes: int, seed: int) -> list[list[str | None]]:
    """Answers in several spellings, the first spellings more often; one in fifty does not parse."""
    draw = random.Random(seed)
    groups: list[list[str | None]] = []
    for kind in draw.choices(list(SPELLINGS), WEIGHTS, k=questions):
        spellings, names = SPELLINGS[kind], dict(zip("nmk", draw.sample(range(2, 99), 3), strict=True))
        weights = [1 / (1 + place) for place in range(len(spellings))]
        texts = [text.format(**names) for text in draw.choices(spellings, weights, k=votes)]
        groups.append([None if draw.random() < 0.02 else text for text in texts])
    return groups


def count_errors(files: list[Path]) -> None:
    """Print how many pairs of each kind are judged otherwise than they should be."""
    grader, table = Grader(), Table("kind", "pairs", "equal, but different", "different, but equal", title="Pairs")
    counts: dict[str, Counter[str]] = {}
    for pair in (pair for file in files for pair in json.loads(file.read_text())):
        count = counts.setdefault(pair["kind"], Counter())
        count["pairs"] += 1
        if grader(pair["prediction"], pair["gold"]) != pair["same"]:
            count["missed" if pair["same"] else "false"] += 1
    total = sum(counts.values(), Counter())
    for kind, count in [*counts.items(), ("all", total)]:
        table.add_row(kind, *(str(count[name]) for name in ("pairs", "false", "missed")))
    Console().print(table)
    grader.close()


def main() -> None:
    """Vote, then grade against the silver answers, and print what it cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=4096)
    parser.add_argument("--votes", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pairs", type=Path, nargs="+", default=[])
    arguments = parser.parse_args()
    if arguments.pairs:
        count_errors(arguments.pairs)
        return
    groups = make_answers(arguments.questions, arguments.votes, arguments.seed)
    grader, table = Grader(), Table("", "seconds", "comparisons", "outcome", "share", title="Grading")
    start = time.perf_counter()
    silver = [vote(group, grader).answer for group in groups]
    _add_rows(table, "vote", time.perf_counter() - start, grader.drain_outcomes())
    start = time.perf_counter()
    for group, answer in zip(groups, silver, strict=True):
        agreement(group, answer or "", grader)
    _add_rows(table, "agreement", time.perf_counter() - start, grader.drain_outcomes())
    Console().print(table)
    grader.close()


def _add_rows(table: Table, name: str, seconds: float, outcomes: dict[str, int]) -> None:
    total = sum(outcomes.values())
    table.add_row(name, f"{seconds:.1f}", str(total), "", "")
    for outcome, count in sorted(outcomes.items(), key=lambda item: -item[1]):
        table.add_row("", "", str(count), outcome, f"{100 * count / total:.2f} %")
    table.add_section()


if __name__ == "__main__":
    main()
