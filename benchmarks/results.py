"""The file of measured figures: ``benchmarks/results.json``, which ``docs/performance.md`` is made from.

At the top level are the headline keys, each a number, and ``sections``: for each benchmark its figures, the keys it
gave, the command that measured it, and the machine that ran it. What a section's figures hold:

- ``step`` and ``step_float32``: see ``benchmarks.step``; every other section: see the module of its name.

A number that was measured in rounds is a ``Spread``, written as its median, low and high; a plain number will do.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.markdown import Markdown

from benchmarks.measure import ROUNDS, Spread
from benchmarks.tables import section_tables

RESULTS = Path(__file__).with_name("results.json")
DIGITS = 6


def publish(section: str, figures: Mapping[str, Any], keys: Mapping[str, float], options: argparse.Namespace) -> None:
    """Print a section's tables, and record its figures where ``--write`` asks for it."""
    Console().print(Markdown(section_tables(section, _plain(figures))))
    if options.write:
        record(section, figures, keys, command(), options.write)


def record(
    section: str, figures: Mapping[str, Any], keys: Mapping[str, float], command: str, path: Path = RESULTS
) -> None:
    """Replace a section's former figures and headline keys; the other sections stay.

    Args:
        section: Name of the benchmark.
        figures: Mappings, sequences, ``Spread``s, numbers, texts.
        keys: Headline numbers, by names that no section has.
        command: What measured it.
        path: The file, made if it is not there; it is never half written.

    Raises:
        ValueError: A number is not finite, or a key is called "sections".
    """
    if "sections" in keys:
        raise ValueError("keys: 'sections' are the sections, a headline key needs another name")
    entry = {"figures": _plain(figures), "keys": sorted(keys), "command": command, "machine": describe_machine()}
    _replace({section: entry}, {name: _number(value) for name, value in keys.items()}, path)


def take(taken: Path, path: Path = RESULTS) -> None:
    """Put the sections and keys of another file, which another machine recorded, in the place of former ones."""
    found = json.loads(taken.read_text())
    _replace(found.pop("sections"), found, path)


def _replace(sections: Mapping[str, Any], keys: Mapping[str, float], path: Path) -> None:
    """Write a file with sections and their keys replaced."""
    results = load(path)
    former = {key for name in sections for key in results["sections"].get(name, {}).get("keys", [])}
    kept = {name: value for name, value in results.items() if name not in former} | keys
    kept["sections"] = dict(sorted((results["sections"] | sections).items()))
    text = json.dumps(dict(sorted(kept.items())), indent=2, allow_nan=False) + "\n"
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    draft.write_text(text)
    draft.replace(path)


def load(path: Path = RESULTS) -> dict[str, Any]:
    """All that was recorded; without a file there are no sections."""
    return json.loads(path.read_text()) if path.exists() else {"sections": {}}


def describe_machine() -> dict[str, Any]:
    """What a figure depends on besides the code: processor, memory, threads, versions, accelerator."""
    amx = " with AMX" if torch.cpu._is_amx_tile_supported() else ""
    machine = {
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability() + amx,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if torch.cuda.is_available():
        machine["accelerator"] = torch.cuda.get_device_name()
    return machine


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the arguments that all benchmarks have: ``--rounds`` and ``--write``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds that count; one more warms up")
    parser.add_argument(
        "--write", nargs="?", type=Path, const=RESULTS, metavar="PATH", help=f"record the figures in {RESULTS.name}"
    )
    return parser


def parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None, least_rounds: int = ROUNDS
) -> argparse.Namespace:
    """Parse the command line; figures of fewer rounds than ``least_rounds`` are not recorded in ``RESULTS``."""
    options = parser.parse_args(arguments)
    if options.write == RESULTS and options.rounds < least_rounds:
        parser.error(f"--write: recorded figures need --rounds {least_rounds} or more, got {options.rounds}")
    return options


def command() -> str:
    """The command under way, as it is typed in the root of the repository; the path of its results is left out."""
    words = ["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}"]
    after_write = False
    for word in sys.argv[1:]:
        if not (after_write and not word.startswith("-")) and not word.startswith("--write"):
            words.append(word)
        after_write = word == "--write"
    return " ".join([*words, "--write"])


def _plain(value: Any) -> Any:
    """The value as JSON has it, numbers shortened to the digits that can be meant."""
    if isinstance(value, Spread):
        return {name: _number(number) for name, number in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return _number(value) if isinstance(value, float) else value


def _number(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"figures: every number must be finite, got {value}")
    return float(f"{value:.{DIGITS}g}")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
