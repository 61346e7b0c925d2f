"""Where sharing the prompt pays: forward and backward of one group over a grid of P, T and G, packed against padded.

One image of 256 tokens and a prompt filled up with text. The bound is what is left when the tokens and the images
that packing does not read cost nothing: padded rows take s seconds, v(G) of them for G images and h for the head;
sharing leaves v(1) + h + (s - v(G) - h) · (P + G (T - 1)) / (G (P + T)). Attention of the answers to the prompt is
work that cannot be shared, so that the bound is out of reach where it dominates.

Figures: ``cells``, each with P, T, G, seconds ``ours`` and ``padded``, ``rounds``, ``speedup``, ``bound`` and the
``fraction`` of it that is reached; ``images``, seconds of the vision tower on as many copies of the image; ``model``;
``dtype``. A cell is measured in ``--rounds`` rounds, or in as many as begin within ``--budget`` seconds, ``--least`` at
least.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.measure import Spread, alternate, time_call
from benchmarks.models import SHAPES, make_policy
from benchmarks.results import make_parser, parse, publish
from benchmarks.workload import DTYPES, PaddedRows, autocast, in_way, make_images
from visplay.functional import token_logps
from visplay.modules import Qwen2_5_VL
from visplay.tiny import ANSWER
from visplay.types import Prompt

PROMPTS, TOKENS, GROUPS = (300, 1000, 3000), (16, 128, 1024), (2, 8, 16)
PADDED_TOKENS = 8192
"""Tokens of padded rows that are kept for the backward pass at once."""


class Limit(NamedTuple):
    """How often a cell is measured.

    Args:
        rounds: At most.
        least: At least.
        budget: Seconds after which no further round begins.
    """

    rounds: int
    least: int
    budget: float


class Surface:
    """The parts of every cell.

    Args:
        policy: Who scores.
        side: Side of the image, pixels.
        dtype: To compute in.
    """

    def __init__(self, policy: Qwen2_5_VL, side: int, dtype: torch.dtype) -> None:
        self.policy, self.padded, self.dtype = policy, in_way(policy, PaddedRows), dtype
        (self.image,) = make_images(1, side)
        self.draw = torch.Generator().manual_seed(0)

    def make_prompt(self, tokens: int) -> Prompt:
        """A prompt of that many tokens, its image among them."""
        prompt = self.policy.encode("0", ANSWER, self.image, question="How many circles?")
        missing = tokens - self.policy.prompt_tokens(prompt)
        return Prompt("0", prompt.token_ids + tuple(self._words(missing).tolist()), prompt.images)

    def score(self, policy: Qwen2_5_VL, prompt: Prompt, token_ids: torch.Tensor, rows: int) -> None:
        """Forward and backward of the completions (G, T), that many at once."""
        for ids in token_ids.split(rows):
            with autocast(policy, self.dtype):
                logps, _ = policy.logps([prompt], ids[None], torch.ones_like(ids[None], dtype=torch.bool))
            logps.sum().backward()
        policy.model.zero_grad()

    def see(self, times: int) -> None:
        """Forward and backward of the vision tower on as many copies of the image."""
        with autocast(self.policy, self.dtype):
            features = self.policy.image_features(self.policy.process_images([self.image] * times))
        torch.cat(list(features)).float().sum().backward()
        self.policy.model.zero_grad()

    def head(self, rows: int) -> None:
        """Forward and backward of the head."""
        weight = self.policy.head_weight
        hidden = torch.randn(rows, weight.shape[1], device=weight.device, requires_grad=True)
        with autocast(self.policy, self.dtype):
            logps, _ = token_logps(hidden, weight, self._words(rows).to(weight.device))
        logps.sum().backward()
        self.policy.model.zero_grad()

    def measure_images(self, counts: Sequence[int], rounds: int) -> dict[int, float]:
        """Median seconds of the vision tower on as many copies of the image."""
        seconds = alternate({count: lambda count=count: self.see(count) for count in counts}, rounds)
        return {count: spread.median for count, spread in seconds.items()}

    def measure_cell(self, p: int, t: int, g: int, limit: Limit, images: dict[int, float]) -> dict[str, Any]:
        """One cell of the grid, given the seconds that images take."""
        prompt, ids = self.make_prompt(p), self._words(g * t).view(g, t).to(self.policy.device)
        rows = max(1, PADDED_TOKENS // (p + t))
        parts = {
            "ours": lambda: self.score(self.policy, prompt, ids, g),
            "padded": lambda: self.score(self.padded, prompt, ids, rows),
            "head": lambda: self.head(g * t),
        }
        seconds = within(limit, parts)
        median = {name: statistics.median(values) for name, values in seconds.items()}
        text = median["padded"] - images[g] - median["head"]
        least = images[1] + median["head"] + text * (p + g * (t - 1)) / (g * (p + t))
        speedup, bound = median["padded"] / median["ours"], median["padded"] / least
        return {
            "P": p,
            "T": t,
            "G": g,
            "rounds": len(seconds["ours"]),
            "ours": Spread.of(seconds["ours"]),
            "padded": Spread.of(seconds["padded"]),
            "speedup": speedup,
            "bound": bound,
            "fraction": speedup / bound,
        }

    def _words(self, count: int) -> torch.Tensor:
        """Ids below all control tokens."""
        return torch.randint(1, 400, (count,), generator=self.draw)


def within(limit: Limit, parts: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of parts in alternating rounds, as many as the limit allows."""
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    start = time.perf_counter()
    for number in range(limit.rounds):
        if number >= limit.least and time.perf_counter() - start > limit.budget:
            break
        for name, part in parts.items():
            seconds[name].append(time_call(part))
    return seconds


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All cells, after a small one that warms up."""
    limit = Limit(options.rounds, options.least, options.budget)
    with tempfile.TemporaryDirectory() as directory:
        policy = make_policy(options.model, Path(directory), "cuda" if torch.cuda.is_available() else "cpu").train()
        policy.max_context_tokens = None
        surface = Surface(policy, SHAPES[options.model].side, DTYPES[options.dtype])
        images = surface.measure_images([1, *options.G], options.rounds)
        surface.measure_cell(min(options.P), min(options.T), min(options.G), limit, images)
        grid = itertools.product(options.G, options.P, options.T)
        cells = [surface.measure_cell(p, t, g, limit, images) for g, p, t in grid]
    return {"cells": cells, "images": images, "model": options.model, "dtype": options.dtype}


def main() -> None:
    """Measure, print, and record where it is asked for; the keys are the least and the median fraction of the bound."""
    parser = make_parser(__doc__)
    parser.add_argument("--model", choices=SHAPES, default="8m")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--budget", type=float, default=10.0, help="seconds of a cell, after which no round begins")
    parser.add_argument("--least", type=int, default=2, help="rounds of a cell whatever the budget")
    parser.add_argument("--P", type=int, nargs="+", default=PROMPTS, help="tokens of a prompt")
    parser.add_argument("--T", type=int, nargs="+", default=TOKENS, help="tokens of a completion")
    parser.add_argument("--G", type=int, nargs="+", default=GROUPS, help="completions of a group")
    options = parse(parser)
    figures = measure(options)
    fractions = [cell["fraction"] for cell in figures["cells"]]
    median = statistics.median(fractions)
    keys = {"prefix_bound_fraction": min(fractions), "prefix_bound_fraction_median": median}
    publish("surface", figures, keys, options)


if __name__ == "__main__":
    main()
