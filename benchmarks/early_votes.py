"""How many votes could be left out: those behind which a question is rejected, whatever they would say.

An upper bound from the votes of a run, without a model: the answers to a question are drawn independently, so that any
order of them is as likely as the one that they were sampled in. Answers that were counted as one class agree with each
other alone; every vote sampled later could only reject less for sure if an answer agreed with more of them.

    python -m benchmarks.early_votes runs/tiny/version_0 --low 0.3 --high 0.8

Without a run it measures what sampling in rounds costs, which reads the prompts again in each: processor time of ten
votes on two questions about each of 32 images of the small world, all questions in every round.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from time import process_time

import numpy as np
import torch

from benchmarks.measure import Spread, alternate
from visplay.callbacks.engines.transformers import TransformersRollout
from visplay.modules import Qwen2_5_VL
from visplay.tiny import ANSWER, BASE
from visplay.tiny.splits import heldout
from visplay.types import Sampling

_ORDERS = 5
_IMAGES, _SEQUENCES = 32, 640  # of a batch of configs/tiny.yaml


def is_rejected(
    answers: Sequence[str | None], votes: int, low: float, high: float, min_parsed_fraction: float = 0.8
) -> bool:
    """Whether a question is invalid or outside of the band, whatever the answers say that are not sampled yet.

    Args:
        answers: The first answers; None did not parse.
        votes: K, how many there will be.
        low: Least confidence, among the parsed answers, that is kept.
        high: Highest confidence that is kept.
        min_parsed_fraction: Least fraction of the K answers that must parse.

    Example:
        >>> is_rejected(["a"] * 8, 10, 0.3, 0.8), is_rejected(["a"] * 9, 10, 0.3, 0.8)
        (False, True)
    """
    missing, counts = votes - len(answers), Counter(answer for answer in answers if answer is not None)
    parsed, most = counts.total() + missing, max(counts.values(), default=0)
    if not parsed or parsed / votes < min_parsed_fraction:
        return True
    return (most + missing) / parsed < low or most / parsed > high


def sampled_fraction(
    answers: Sequence[Sequence[str | None]], at_once: int, low: float, high: float, seed: int = 0
) -> float:
    """Fraction of the answers that are sampled if a question is left as soon as it is rejected.

    Args:
        answers: Those to each question.
        at_once: Answers sampled to a question before it is looked at.
        low: Of the band.
        high: Of the band.
        seed: Of the orders.
    """
    generator, sampled, total = np.random.default_rng(seed), 0, 0
    for given in answers:
        for _ in range(_ORDERS):
            order = [given[index] for index in generator.permutation(len(given))]
            ends = [*range(at_once, len(order), at_once), len(order)]
            sampled += next((end for end in ends if is_rejected(order[:end], len(order), low, high)), len(order))
            total += len(order)
    return sampled / total


def read_answers(directory: Path) -> Iterator[list[str | None]]:
    """The answers to each question that was voted on, by the name of their class, from the shards of an iteration."""
    for path in sorted(directory.glob("[0-9]*.jsonl")):
        for line in path.read_text().splitlines():
            if (vote := json.loads(line)["vote"]) is not None:
                named = [name for name, count in vote["counts"] for _ in range(count)]
                yield named + [None] * (vote["total"] - vote["parsed"])


def time_rounds(rounds: Sequence[Sequence[int]]) -> dict[str, Spread]:
    """Processor time of a vote in rounds of so many answers each, by ``9 + 1``."""
    torch.set_num_threads(1)
    engine, policy = TransformersRollout(_SEQUENCES), Qwen2_5_VL(str(BASE))
    policy.load()
    policy.name = "reasoner"
    examples = heldout(2 * _IMAGES)
    asked = [(examples[index // 2].image, example.problem) for index, example in enumerate(examples)]
    prompts = [policy.encode(f"{n}", ANSWER, image, question=text) for n, (image, text) in enumerate(asked)]

    def sample(sizes: Sequence[int]) -> None:
        for number, answers in enumerate(sizes):
            engine.generate(policy, prompts, Sampling(answers, max_new_tokens=48, seed=number))

    parts = {" + ".join(map(str, sizes)): partial(sample, sizes) for sizes in rounds}
    return alternate(parts, clock=process_time)


def main() -> None:
    """Print the fraction of votes that each iteration of some runs could have left out, or the cost of rounds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.early_votes", allow_abbrev=False)
    parser.add_argument("runs", type=Path, nargs="*", help="directories of runs, such as runs/tiny/version_0")
    parser.add_argument("--low", type=float, default=0.25)
    parser.add_argument("--high", type=float, default=0.75)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 2, 5], help="answers sampled between two looks")
    options = parser.parse_args()
    if not options.runs:
        for name, seconds in time_rounds([(10,), (9, 1), (5, 5), (2,) * 5]).items():
            print(f"{name}: {seconds.median:.2f} s")
    for run in options.runs:
        for directory in sorted(path for path in (run / "generated").glob("iteration-*") if path.is_dir()):
            answers = list(read_answers(directory))
            saved = [1 - sampled_fraction(answers, n, options.low, options.high) for n in options.at_once]
            cells = ", ".join(f"{n} at once {each:.1%}" for n, each in zip(options.at_once, saved, strict=True))
            print(f"{directory}: of the votes on {len(answers)} questions: {cells}")


if __name__ == "__main__":
    main()
