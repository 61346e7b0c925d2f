"""``visplay prepare``: bring the configured benchmarks here, check every file by its hash, and read every row."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence

from omegaconf import OmegaConf
from rich.table import Table

from visplay.commands.settings.configuration import build, read_config
from visplay.data.benchmarks.benchmark import Benchmark
from visplay.data.benchmarks.benchmark_suite import BenchmarkSuite
from visplay.data.benchmarks.downloads import Hub, HuggingFaceHub
from visplay.data.images.image_folder import UnusableItemError
from visplay.terminal import Terminal, set_up_log

_SHOWN_REASONS = 3


def run(arguments: Sequence[str], hub: Hub | None = None) -> None:
    """Download, check and read the benchmarks; an error ends the process with its message.

    Args:
        arguments: What follows the command's name.
        hub: Where to download from; None is the Hugging Face Hub.
    """
    options = _parse(arguments)
    set_up_log()
    try:
        suite = read_suite(options.config)
        suite = suite if not options.only else suite.choose(options.only)
        suite.download(HuggingFaceHub() if hub is None else hub, options.update)
        Terminal().print(describe(suite.open()))
    except (OSError, ValueError, argparse.ArgumentError) as error:
        raise SystemExit(f"error: {error}") from error


def describe(benchmarks: Sequence[Benchmark]) -> Table:
    """Read every row of some benchmarks: a table of how many there are, how many can be used, and why others cannot."""
    table = Table("benchmark", "rows", "usable", "images", "not usable because")
    for benchmark in benchmarks:
        images, unusable = 0, Counter[str]()
        for index in range(len(benchmark)):
            try:
                images += len(benchmark[index].images)
            except UnusableItemError as error:
                unusable[error.reason] += 1
        usable = len(benchmark) - unusable.total()
        reasons = "; ".join(f"{reason} ({count})" for reason, count in unusable.most_common(_SHOWN_REASONS))
        table.add_row(benchmark.name, str(len(benchmark)), str(usable), str(images), reasons)
    return table


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="visplay prepare", description=__doc__)
    parser.add_argument(
        "--config",
        action="append",
        required=True,
        help="file with data.init_args.benchmarks, or name of a shipped one: benchmarks; a later one overrides",
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="benchmarks to prepare; all by default")
    parser.add_argument(
        "--update", action="store_true", help="go to what the revisions are now, instead of the commits on record"
    )
    return parser.parse_args(arguments)


def read_suite(configs: Sequence[str]) -> BenchmarkSuite:
    """The benchmarks of some configuration files, of which a later one overrides.

    Raises:
        ValueError: There are none in them.
    """
    key = "data.init_args.benchmarks"
    return build(BenchmarkSuite, OmegaConf.select(read_config(configs, key), key))
