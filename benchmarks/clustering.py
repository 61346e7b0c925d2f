"""How long the redundancy of questions takes: 4096 at once and 512 groups of 8, ours and as the released code does it.

Part of ``make bench``; run it alone: ``python -m benchmarks.clustering``. The released way scores every pair with nltk
and links with scikit-learn; it is timed on a part of the questions and extrapolated by the number of pairs.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rich.console import Console
from rich.table import Table
from sklearn.cluster import AgglomerativeClustering

from visplay.functional import batch_redundancy, group_redundancy

NEAR_DUPLICATES = 0.3
WORDS = {
    "thing": "bars lines points cars people trees windows triangles circles labels cells arrows signs dogs chairs",
    "colour": "red blue green yellow black white orange purple grey dark light",
    "place": "chart image graph table picture diagram scene figure map photo",
    "side": "left right top bottom centre background foreground corner",
    "quantity": "height width value area length price temperature population share speed",
    "name": "A B C D E January March July 2019 2020 2021 2022 Europe Asia Tokyo Paris x y",
    "number": " ".join(str(number) for number in range(2, 100)),
}
TEMPLATES = [
    "How many {colour} {thing} are there in the {place}?",
    "What is the difference between the {quantity} of {name} and the {quantity} of {name} in the {place}?",
    "If the {quantity} of {name} grows by {number} percent, what is its new {quantity} given the {place}?",
    "Which of these is the {colour} {thing} at the {side} of the {place}? A) {name} B) {name} C) {name} D) {name}",
    "Based on the {place}, what is the ratio of {thing} to {thing}, rounded to {number} decimal places?",
    "In the {place}, what {colour} object lies between the {thing} and the {thing} on the {side}?",
    "What is the total {quantity} of all {thing} whose {quantity} exceeds {number}?",
    "Given that the {quantity} of {name} is {number}, calculate the {quantity} of {name} from the {place} shown.",
    "Are there more {colour} {thing} than {colour} {thing} on the {side} side of the {place}?",
    "Find the {quantity} of the {colour} {thing} when {name} equals {number} and {name} equals {number}.",
    "Considering only the {thing} near the {side}, how many have a {quantity} of at least {number}?",
    "What does the {colour} line in the {place} tell about the {quantity} of {name} after {name}?",
]

OPENINGS = [
    "",
    "Look closely: ",
    "Based on the {place} above, ",
    "Suppose that the {colour} {thing} are removed. ",
    "The {place} shows the {quantity} of {number} {thing} in {name} and {name}. ",
]


def make_questions(count: int, seed: int) -> list[str]:
    """Questions from templates; a share of them repeats one shortly before but for a few words, or none."""
    draw = random.Random(seed)
    questions: list[str] = []
    for _ in range(count):
        near = questions and draw.random() < NEAR_DUPLICATES
        fresh = _fill(draw.choice(OPENINGS) + draw.choice(TEMPLATES), draw)
        questions.append(_vary(draw.choice(questions[-8:]), draw) if near else fresh)
    return questions


def released_shares(questions: Sequence[str]) -> list[float]:
    """Share of each question's cluster, pair by pair: the earlier is the hypothesis, the later the reference."""
    words, smoothing = [question.split() for question in questions], SmoothingFunction().method1
    distances = np.zeros((len(questions), len(questions)))
    for row, column in zip(*np.triu_indices(len(questions), k=1), strict=True):
        score = sentence_bleu([words[column]], words[row], smoothing_function=smoothing)
        distances[row, column] = distances[column, row] = 1.0 - score
    model = AgglomerativeClustering(n_clusters=None, distance_threshold=0.5, metric="precomputed", linkage="average")
    labels = model.fit_predict(distances)
    return (np.bincount(labels)[labels] / len(labels)).tolist()


def measure_seconds(run: Callable[[], object], rounds: int) -> float:
    """Median seconds of a call."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Median seconds of each way, the released one from a part of the pairs, and what ours adds to the peak memory."""
    count, size, rounds, sample = arguments.questions, arguments.group, arguments.rounds, arguments.sample
    questions = make_questions(count, arguments.seed)
    groups = [questions[start : start + size] for start in range(0, count, size)]
    some = groups[: max(sample // size, 1)]
    before = _peak_mib()
    ours = measure_seconds(lambda: batch_redundancy([questions]), rounds)
    peak = _peak_mib() - before
    ours_in_groups = measure_seconds(lambda: group_redundancy(groups), rounds)
    released = measure_seconds(lambda: released_shares(questions[:sample]), rounds)
    released_in_groups = measure_seconds(lambda: [released_shares(group) for group in some], rounds)
    names = f"cluster_{count}", f"cluster_{len(groups)}x{size}"
    return {
        f"{names[0]}_seconds": ours,
        f"{names[0]}_peak_mib": peak,
        f"{names[0]}_released_extrapolated_seconds": released * (count * (count - 1)) / (sample * (sample - 1)),
        f"{names[1]}_seconds": ours_in_groups,
        f"{names[1]}_released_extrapolated_seconds": released_in_groups * len(groups) / len(some),
    }


def main() -> None:
    """Measure both ways, print them, and write them where asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=4096)
    parser.add_argument("--group", type=int, default=8, help="questions of a group")
    parser.add_argument("--sample", type=int, default=128, help="questions of which the released way is timed")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median counts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, help="JSON file to write the numbers to")
    arguments = parser.parse_args()
    results = measure(arguments)
    table = Table("", "", title="Redundancy of questions")
    for name, value in results.items():
        table.add_row(name.replace("_", " "), f"{value:,.3f}")
    Console().print(table)
    if arguments.write:
        arguments.write.write_text(json.dumps(results, indent=2) + "\n")


def _fill(template: str, draw: random.Random) -> str:
    parts = template.split("{")
    filled = [part.partition("}") for part in parts[1:]]
    return parts[0] + "".join(draw.choice(WORDS[name].split()) + rest for name, _, rest in filled)


def _vary(question: str, draw: random.Random) -> str:
    words = question.split()
    for _ in range(draw.randrange(5)):
        words[draw.randrange(len(words))] = draw.choice(" ".join(WORDS.values()).split())
    return " ".join(words)


def _peak_mib() -> float:
    """Peak resident memory of this process so far."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


if __name__ == "__main__":
    main()
