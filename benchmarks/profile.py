"""How near the update comes to what the machine can do, where its time goes, and what a step adds to it.

``python -m benchmarks.profile`` prints the measured peak of matrix products, the fraction of it that the update's
needed operations (``benchmarks.flops``) reach, the operators that take the most time, and the overhead of a step
(``benchmarks.overhead`` says what counts).

Figures: ``peak``, for each precision operations per second of each product; ``update``, for each precision ``seconds``,
``flops`` and ``share`` of the best product in that precision; ``parts``, needed operations forward by part;
``operators``, the most expensive ones of an update, each with name, seconds and share; ``overhead``; ``shape``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity

from benchmarks.flops import forward_flops, packed_work, update_flops
from benchmarks.models import make_policy
from benchmarks.overhead import measure_overhead
from benchmarks.peak import measure_peak, model_products
from benchmarks.results import command, make_parser, parse, record
from benchmarks.timing import alternate
from benchmarks.updates import DTYPES, add_size, make_batch, make_update, read_size
from visplay.modules import Qwen2_5_VL

OPERATORS = 15


def profile_operators(run: Callable[[], object]) -> list[dict[str, Any]]:
    """The operators that take the most time by themselves in one call, and all others together."""
    run()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with torch.profiler.profile(activities=activities) as profile:
        run()
    kind = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    times = sorted(((getattr(event, kind) / 1e6, event.key) for event in profile.key_averages()), reverse=True)
    total = sum(seconds for seconds, _ in times)
    rest = sum(seconds for seconds, _ in times[OPERATORS:])
    rows = [*times[:OPERATORS], (rest, "all others")]
    return [{"name": name, "seconds": seconds, "share": seconds / total} for seconds, name in rows]


def measure_update(policy: Qwen2_5_VL, options: argparse.Namespace) -> dict[str, Any]:
    """The peak and the update in each precision, and the operators of the first."""
    size = read_size(options)
    batch = make_batch(policy, size)
    work = packed_work(policy, batch)
    cube = options.cube
    products = [(cube, cube, cube), *model_products(policy.model, work.text_tokens)]
    device = policy.device.type
    peaks = {d: measure_peak(products, DTYPES[d], device, options.rounds) for d in options.dtypes}
    updates = {d: make_update(policy, batch, DTYPES[d]) for d in options.dtypes}
    seconds, flops = alternate(updates, options.rounds), update_flops(policy.model.config, work)
    shares = {d: flops / s.median / max(peaks[d].values()) for d, s in seconds.items()}
    update = {d: {"seconds": seconds[d], "flops": flops, "share": shares[d]} for d in options.dtypes}
    return {
        "peak": peaks,
        "update": update,
        "parts": forward_flops(policy.model.config, work),
        "operators": profile_operators(updates[options.dtypes[0]]),
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    size, device = read_size(options), "cuda" if torch.cuda.is_available() else "cpu"
    precision = {"bfloat16": "bf16-mixed", "float32": "32-true"}[options.dtypes[0]]
    with tempfile.TemporaryDirectory() as directory:
        policy = make_policy(options.model, Path(directory), device).train()
        figures = measure_update(policy, options)
        figures["overhead"] = measure_overhead(policy, size, options.rounds, precision)
    shape = {"model": options.model, "prompts": size.prompts, "G": size.group, "T": size.tokens, "side": size.side}
    return figures | {"shape": shape}


def show(figures: dict[str, Any]) -> None:
    """Print tables."""
    console = Console()
    for dtype, peak in figures["peak"].items():
        table = Table("product", "GFLOP/s", title=f"Matrix products, {dtype}")
        for product, rate in peak.items():
            table.add_row(product, f"{rate / 1e9:,.0f}")
        console.print(table)
    table = Table("dtype", "seconds", "GFLOP", "fraction of peak", title="Update")
    for dtype, row in figures["update"].items():
        table.add_row(dtype, f"{row['seconds'].median:.3f}", f"{row['flops'] / 1e9:,.0f}", f"{row['share']:.3f}")
    console.print(table)
    table = Table("operator", "seconds", "share", title="Operators of an update")
    for row in figures["operators"]:
        table.add_row(row["name"], f"{row['seconds']:.3f}", f"{row['share']:.1%}")
    console.print(table)
    stages = figures["overhead"]["seconds"]
    table = Table(*stages, title=f"Seconds of a step; overhead is {figures['overhead']['share']:.2%}")
    table.add_row(*(f"{seconds:.3f}" for seconds in stages.values()))
    console.print(table)


def main() -> None:
    """Measure, print, and record where it is asked for."""
    parser = make_parser(__doc__)
    add_size(parser, prompts=4)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), help="the first gives the keys")
    parser.add_argument("--cube", type=int, default=4096, help="side of the square product")
    options = parse(parser)
    figures = measure(options)
    show(figures)
    if options.write:
        share = figures["update"][options.dtypes[0]]["share"]
        keys = {"matmul_peak_fraction": share, "overhead_fraction": figures["overhead"]["share"]}
        record("profile", figures, keys, command(), options.write)


if __name__ == "__main__":
    main()
