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
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.results import command, make_parser, parse, record
from benchmarks.timing import Spread, time_call
from benchmarks.updates import DTYPES
from visplay.functional.logps import token_logps

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
    runs: dict[tuple[str, str], list[dict[str, float]]] = {(d, w): [] for d in options.dtypes for w in WAYS}
    for _ in range(options.rounds):
        for dtype, way in runs:
            runs[dtype, way].append(_measure_apart(way, dtype, options))
    rows: dict[str, dict[str, dict[str, Spread]]] = {dtype: {} for dtype in options.dtypes}
    for (dtype, way), measured in runs.items():
        rows[dtype][way] = {name: Spread.of([each[name] for each in measured]) for name in measured[0]}
    return rows


def compare(ways: dict[str, dict[str, Spread]]) -> dict[str, float]:
    """What lean needs of what full logits need."""
    return {name: ways[LEAN][name].median / ways[FULL][name].median for name in ("growth_mib", "whole_mib")}


def main() -> None:
    """Measure, print, and record where it is asked for."""
    options = parse(_make_parser(), least_rounds=1)
    if options.alone:
        sys.stdout.write(json.dumps(measure_alone(*options.alone, options)) + "\n")
        return
    rows = measure(options)
    ratios = {dtype: compare(ways) for dtype, ways in rows.items()}
    table = Table("dtype", "way", "growth MiB", "whole MiB", "seconds", title=f"Head, V = {options.vocabulary:,}")
    for dtype, ways in rows.items():
        for way, row in ways.items():
            table.add_row(dtype, way, *(f"{value.median:,.1f}" for value in row.values()))
        table.add_row(dtype, "ratio", *(f"{value:.3f}" for value in ratios[dtype].values()))
    Console().print(table)
    if options.write:
        shape = {"V": options.vocabulary, "H": options.width, "R": options.rows, "device": options.device}
        keys = {"head_memory_ratio": ratios[options.dtypes[0]]["growth_mib"]}
        record("head", {"rows": rows, "ratios": ratios, "shape": shape}, keys, command(), options.write)


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


def _measure_apart(way: str, dtype: str, options: argparse.Namespace) -> dict[str, float]:
    sizes = [f"--{name}={getattr(options, name)}" for name in ("vocabulary", "width", "rows", "repeats", "device")]
    words = [sys.executable, "-m", "benchmarks.head", "--alone", way, dtype, *sizes]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise RuntimeError(f"{way} in {dtype} ended with {done.returncode} (out of memory?): {done.stderr[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _inputs(options: argparse.Namespace, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    sizes = {"device": options.device, "dtype": dtype}
    hidden = torch.empty(options.rows, options.width, **sizes).normal_().requires_grad_()
    weight = torch.empty(options.vocabulary, options.width, **sizes).normal_(std=0.02).requires_grad_()
    return hidden, weight, torch.randint(options.vocabulary, (options.rows,), device=options.device)


def memory_mib(device: str) -> float:
    """Memory in use; on CUDA the peak is counted from here on."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    return _resident_mib("VmRSS")


def forget_peak(device: str) -> None:
    """Count the peak from here on, where the system can: on CUDA and on Linux."""
    clear = Path("/proc/self/clear_refs")
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif clear.exists():
        clear.write_text("5")


def peak_mib(device: str) -> float:
    """Highest memory so far: of tensors on CUDA, else of the process."""
    return torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else _resident_mib("VmHWM")


def _resident_mib(name: str) -> float:
    """A line of this process's status; unlike ``ru_maxrss`` its peak owes nothing to the process that started it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 2**10


if __name__ == "__main__":
    main()
