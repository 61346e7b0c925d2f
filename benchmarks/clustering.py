"""How long the redundancy of questions takes: 4096 at once and 512 groups of 8, ours and as the released code does it.

Part of ``make bench``; run it alone: ``python -m benchmarks.clustering``. The released way scores every pair with nltk
and links with scikit-learn; it is timed on a part of the questions and extrapolated by the number of pairs.

Figures: ``seconds``, for each set of questions and each way a ``Spread``; ``peak_mib``, what ours adds to the peak
resident memory on the questions at once; ``released_questions_timed``.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from sklearn.cluster import AgglomerativeClustering

from benchmarks.measure import alternate, peak_mib
from benchmarks.results import make_parser, parse, publish
from visplay.functional import batch_redundancy, group_redundancy

NEAR_DUPLICATES = 0.3
OURS, RELEASED = "ours", "released code, extrapolated"
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
    """Questions from templates; a fraction of them repeats one shortly before but for a few words, or none."""
    draw = random.Random(seed)
    questions: list[str] = []
    for _ in range(count):
        near = questions and draw.random() < NEAR_DUPLICATES
        fresh = _fill(draw.choice(OPENINGS) + draw.choice(TEMPLATES), draw)
        questions.append(_vary(draw.choice(questions[-8:]), draw) if near else fresh)
    return questions


def released_fractions(questions: Sequence[str]) -> list[float]:
    """Fraction of each question's cluster, pair by pair: the earlier is the hypothesis, the later the reference."""
    words, smoothing = [question.split() for question in questions], SmoothingFunction().method1
    distances = np.zeros((len(questions), len(questions)))
    for row, column in zip(*np.triu_indices(len(questions), k=1), strict=True):
        score = sentence_bleu([words[column]], words[row], smoothing_function=smoothing)
        distances[row, column] = distances[column, row] = 1.0 - score
    model = AgglomerativeClustering(n_clusters=None, distance_threshold=0.5, metric="precomputed", linkage="average")
    labels = model.fit_predict(distances)
    return (np.bincount(labels)[labels] / len(labels)).tolist()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each way, the released one from a part of the pairs, and what ours adds to the peak memory."""
    count, size, sample = options.questions, options.group, options.sample
    questions = make_questions(count, options.seed)
    groups = [questions[start : start + size] for start in range(0, count, size)]
    some = groups[: max(sample // size, 1)]
    before = peak_mib()
    batch_redundancy([questions])
    peak = peak_mib() - before
    names = f"cluster_{count}", f"cluster_{len(groups)}x{size}"
    parts = {
        (names[0], OURS): lambda: batch_redundancy([questions]),
        (names[1], OURS): lambda: group_redundancy(groups),
        (names[0], RELEASED): lambda: released_fractions(questions[:sample]),
        (names[1], RELEASED): lambda: [released_fractions(group) for group in some],
    }
    seconds = alternate(parts, options.rounds)
    pairs = (count * (count - 1)) / (sample * (sample - 1)), len(groups) / len(some)
    for name, times in zip(names, pairs, strict=True):
        seconds[name, RELEASED] = seconds[name, RELEASED].scaled(times)
    rows = {name: {way: seconds[name, way] for way in (OURS, RELEASED)} for name in names}
    return {"seconds": rows, "peak_mib": peak, "released_questions_timed": sample}


def main() -> None:
    """Measure both ways, print them, and record them where asked to."""
    parser = make_parser(__doc__)
    parser.add_argument("--questions", type=int, default=4096)
    parser.add_argument("--group", type=int, default=8, help="questions of a group")
    parser.add_argument("--sample", type=int, default=128, help="questions of which the released way is timed")
    parser.add_argument("--seed", type=int, default=0)
    options = parse(parser)
    figures = measure(options)
    keys = {f"{name}_seconds": row[OURS].median for name, row in figures["seconds"].items()}
    publish("clustering", figures, keys, options)


def _fill(template: str, draw: random.Random) -> str:
    parts = template.split("{")
    filled = [part.partition("}") for part in parts[1:]]
    return parts[0] + "".join(draw.choice(WORDS[name].split()) + rest for name, _, rest in filled)


def _vary(question: str, draw: random.Random) -> str:
    words = question.split()
    for _ in range(draw.randrange(5)):
        words[draw.randrange(len(words))] = draw.choice(" ".join(WORDS.values()).split())
    return " ".join(words)


if __name__ == "__main__":
    main()
