"""Peak memory and seconds of the log-probability head, forward and backward: lean against full logits.

Every way runs in a fresh process, so that nothing but itself is in its peak. The weight and its gradient are common
to both ways; "whole" is the peak memory of the process, and "growth" what it added to the memory before the head ran,
inputs (hidden states, weight, targets) there already; on CUDA both are of the allocator. Memory repeats to within a
few MiB, so one round will do; the seconds are those of the fastest of ``--repeats`` calls.

Figures: ``rows``, for each precision and way ``growth_mib``, ``whole_mib`` and ``seconds``; ``ratios``, for each
precision lean over full of both; ``shape``. The headline key is the ratio of growth in the first precision of
``--dtypes``, which the figures name first.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.measure import Spread, memory_mib, peak_mib, run_apart, time_call
from benchmarks.results import make_parser, parse, publish
from benchmarks.workload import DTYPES
from visplay.functional.grpo.logps import token_logps

LEAN, FULL = "lean", "full logits"


def full_logps(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies from the logits of all rows, the plain way."""
    logps = (hidden @ weight.T).float().log_softmax(-1)  # (R, V)
    with torch.no_grad():
        entropies = -(logps.exp() * logps).sum(-1)
    return logps.gather(1, targets[:, None]).squeeze(1), entropies


WAYS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {LEAN: token_logps, FULL: full_logps}


def measure_alone(way: str, dtype: str, options: argparse.Namespace) -> dict[str, float]:
    """Growth of the peak memory and seconds of a way in this process; see the module."""
    hidden, weight, targets = _inputs(options, DTYPES[dtype])
    before = memory_mib(options.device)

    def run() -> None:
        hidden.grad = weight.grad = None
        logps, _ = WAYS[way](hidden, weight, targets)
        logps.sum().backward()

    seconds = [time_call(run) for _ in range(options.repeats)]
    peak = peak_mib(options.device)
    return {"growth_mib": peak - before, "whole_mib": peak, "seconds": min(seconds)}


def measure(options: argparse.Namespace) -> dict[str, dict[str, dict[str, Spread]]]:
    """All ways in all precisions, taking turns, each in a process of its own."""
    sizes = [f"--{name}={getattr(options, name)}" for name in ("vocabulary", "width", "rows", "repeats", "device")]
    runs: dict[tuple[str, str], list[dict[str, float]]] = {(d, w): [] for d in options.dtypes for w in WAYS}
    for _ in range(options.rounds):
        for dtype, way in runs:
            runs[dtype, way].append(run_apart("head", way, dtype, *sizes))
    rows: dict[str, dict[str, dict[str, Spread]]] = {dtype: {} for dtype in options.dtypes}
    for (dtype, way), measured in runs.items():
        rows[dtype][way] = {name: Spread.of([each[name] for each in measured]) for name in measured[0]}
    return rows


def main() -> None:
    """Measure, print, and record where it is asked for."""
    options = parse(_make_parser(), least_rounds=1)
    if options.alone:
        sys.stdout.write(json.dumps(measure_alone(*options.alone, options)) + "\n")
        return
    rows = measure(options)
    ratios = {
        dtype: {name: ways[LEAN][name].median / ways[FULL][name].median for name in ("growth_mib", "whole_mib")}
        for dtype, ways in rows.items()
    }
    shape = {"V": options.vocabulary, "H": options.width, "R": options.rows, "device": options.device}
    keys = {"head_memory_ratio": ratios[options.dtypes[0]]["growth_mib"]}
    publish("head", {"rows": rows, "ratios": ratios, "shape": shape}, keys, options)


def _make_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.set_defaults(rounds=1)
    parser.add_argument("--vocabulary", type=int, default=151936, help="V")
    parser.add_argument("--width", type=int, default=2048, help="H")
    parser.add_argument("--rows", type=int, default=4096, help="R, tokens that are scored")
    parser.add_argument("--repeats", type=int, default=1, help="calls in a process")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), help="the first gives the key")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--alone", nargs=2, metavar=("WAY", "DTYPE"), help="measure one way in this process, as JSON")
    return parser


def _inputs(options: argparse.Namespace, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    sizes = {"device": options.device, "dtype": dtype}
    hidden = torch.empty(options.rows, options.width, **sizes).normal_().requires_grad_()
    weight = torch.empty(options.vocabulary, options.width, **sizes).normal_(std=0.02).requires_grad_()
    return hidden, weight, torch.randint(options.vocabulary, (options.rows,), device=options.device)


if __name__ == "__main__":
    main()
