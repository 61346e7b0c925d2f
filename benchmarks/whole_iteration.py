"""One whole iteration: ``visplay fit``, and the same work in the parts that users of TRL would put together.

An iteration validates; asks, votes and updates the Questioner; asks, votes and curates; answers and updates the
Reasoner; and validates again, greedily and by sampling. ``ours`` is the command as it is, with its check-points, log
and report. ``TRL`` samples with transformers' ``generate`` (``num_return_sequences``, prompts of similar length padded
together, as many sequences at once as ours), updates with TRL's ``GRPOTrainer``, and writes none of those. With
``TRL+vLLM`` votes, curation and validation are sampled with vLLM; TRL's own use of it fails on a CPU. See
``benchmarks.trl_iteration``. Parsers, votes, rewards, gates and scores are the project's in all, and so are images, G,
K, lengths, steps and precision, which is float32. Of two workloads (``benchmarks.iteration_workloads``) ``fixed`` is a
model of ``--model`` whose completions all have T tokens, and ``default`` the embedded default, after which every way
reports the held-out accuracy.

Every run is a process of its own, the ways take turns, and each round has another seed; no round warms up. Stages count
from the first validation on: ``start`` is what comes before, imports and loading, and ``rest`` what is in no stage,
grading, gates, data set and check-points among it. Images per hour are the images that were asked about, for rewards
and for curation, over the wall-clock from the beginning of the first stage to the end of the last one; ``start`` is not
in it.

Figures: for each workload, for each way ``seconds`` by stage, ``images_per_hour``, ``cpu_seconds`` of all stages and
``peak_mib`` of the process; ``images`` and ``rounds``; ``accuracy``, for each way, round and score the estimate with
its interval; of ``fixed`` its ``shape``. The headline keys are ours over TRL's images per hour.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning import Callback

from benchmarks.iteration import stage_seconds
from benchmarks.iteration_workloads import Amounts, ValidationTimer, arguments, write_default, write_fixed
from benchmarks.measure import Spread, peak_mib, run_apart
from benchmarks.results import make_parser, parse, publish
from benchmarks.workload import add_size, read_size
from visplay.callbacks import SelfPlay
from visplay.cli import instantiate, run
from visplay.modules import VisPlay

ALL, VALIDATE = "all stages", "validate"
STAGES = {
    VALIDATE: "validate, before and after",
    "questioner/rollout": "Questioner: ask",
    "questioner/votes": "Questioner: vote",
    "questioner/update": "Questioner: update",
    "curation/questions": "curation: ask",
    "curation/votes": "curation: vote",
    "reasoner/rollout": "Reasoner: answer",
    "reasoner/update": "Reasoner: update",
}
"""By the names that a run logs in seconds."""
OURS, TRL = "ours", "TRL"
WORKLOADS = "fixed", "default"
SCORES = {"greedy": "rule_accuracy", "sampled": "pass@1", "majority": "majority"}
"""Metrics of the held-out questions."""


def run_ours(config: Path, directory: Path, seed: int) -> dict[str, Any]:
    """Do an iteration with ``visplay fit`` in this process; see ``measure_alone``."""
    done = run(["fit", *arguments(config, directory, seed)])
    return describe(done.model, done.trainer.callbacks, stage_seconds(directory))


def run_trl(config: Path, directory: Path, seed: int, vllm: bool = False) -> dict[str, Any]:
    """Do an iteration with TRL in this process; see ``measure_alone``."""
    from benchmarks.trl_iteration import TRLIteration  # needs TRL, which takes seconds to import

    built = instantiate(arguments(config, directory, seed))
    return describe(built.model, built.callbacks, TRLIteration(built, directory, vllm).run())


def describe(module: VisPlay, callbacks: Sequence[Callback], seconds: Mapping[str, float]) -> dict[str, Any]:
    """What an iteration that has just ended took, and was about.

    Args:
        module: What has learned.
        callbacks: ``SelfPlay`` and a ``ValidationTimer`` among them.
        seconds: Of each stage but validation, by its key in ``STAGES``.
    """
    (timer,) = (each for each in callbacks if isinstance(each, ValidationTimer))
    (self_play,) = (each for each in callbacks if isinstance(each, SelfPlay))
    wall, cpu = (now - began for now, began in zip(timer.now(), timer.began, strict=True))
    seconds = seconds | {VALIDATE: timer.seconds}
    stages = {title: seconds[name] for name, title in STAGES.items()}
    estimates = module.reports["heldout"].metrics
    learned = module.questioner.config
    return {
        "seconds": stages | {"rest": wall - sum(stages.values()), ALL: wall},
        "cpu_seconds": cpu,
        "peak_mib": peak_mib(),
        "images": learned.steps * learned.prompts_per_step + self_play.curation.images,
        "accuracy": {name: estimates[metric]._asdict() for name, metric in SCORES.items()},
        "versions": {name: role.vlm.version for name, role in module.roles.items()},
        "work": {name: dict(getattr(role, "work", {})) for name, role in module.roles.items()},
    }


WAYS: dict[str, Callable[[Path, Path, int], dict[str, Any]]] = {
    OURS: run_ours,
    TRL: run_trl,
    "TRL+vLLM": partial(run_trl, vllm=True),
}


def measure_alone(way: str, config: str, seed: str) -> dict[str, Any]:
    """An iteration in this process: ``seconds`` by stage, ``cpu_seconds``, ``peak_mib``, ``accuracy`` and work done.

    Args:
        way: One of ``WAYS``.
        config: Path of the configuration.
        seed: Root of all draws.
    """
    with tempfile.TemporaryDirectory() as directory:
        return WAYS[way](Path(config), Path(directory), int(seed))


def measure(config: Path, ways: Sequence[str], rounds: int) -> dict[str, Any]:
    """Figures of a workload, see the module: the ways take turns, each time in a process of its own."""
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for seed in range(rounds):
        for way in ways:
            start = time.perf_counter()
            done = run_apart("whole_iteration", way, str(config), str(seed))
            done["seconds"]["start"] = time.perf_counter() - start - done["seconds"][ALL]
            runs[way].append(done)
    (images,) = {done["images"] for way in ways for done in runs[way]}
    rows = {way: _summarize(done, images) for way, done in runs.items()}
    accuracy = {way: [each["accuracy"] for each in done] for way, done in runs.items()}
    return {"rows": rows, "accuracy": accuracy, "images": images, "rounds": rounds}


def main() -> None:
    """Measure, print, and record where it is asked for."""
    options = parse(_make_parser(), least_rounds=1)
    if options.alone:
        sys.stdout.write(json.dumps(measure_alone(*options.alone)) + "\n")
        return
    amounts = Amounts(read_size(options))
    workloads, keys = {}, {}
    with tempfile.TemporaryDirectory() as name:
        for workload in options.workloads:
            if workload == "fixed":
                figures = measure(write_fixed(options.model, amounts, Path(name)), options.ways, options.rounds)
                figures["shape"] = {"model": options.model, "G": options.group, "K": amounts.votes, "T": options.tokens}
            else:
                figures = measure(write_default(Path(name)), options.ways, options.default_rounds)
            workloads[workload] = figures
            hourly = {way: row["images_per_hour"].median for way, row in figures["rows"].items()}
            if {OURS, TRL} <= hourly.keys():
                keys[f"iteration_speedup_vs_trl_{workload}"] = hourly[OURS] / hourly[TRL]
    publish("whole_iteration", {"workloads": workloads}, keys, options)


def _summarize(runs: Sequence[Mapping[str, Any]], images: int) -> dict[str, Any]:
    seconds = {stage: Spread.of([run["seconds"][stage] for run in runs]) for stage in runs[0]["seconds"]}
    further = {name: Spread.of([run[name] for run in runs]) for name in ("cpu_seconds", "peak_mib")}
    return {"seconds": seconds, "images_per_hour": seconds[ALL].rate(3600 * images)} | further


def _make_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.set_defaults(rounds=3)
    add_size(parser, prompts=1)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=WORKLOADS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[OURS, TRL])
    parser.add_argument("--default-rounds", type=int, default=1, help="rounds of the workload default")
    parser.add_argument(
        "--alone", nargs=3, metavar=("WAY", "CONFIG", "SEED"), help="an iteration in this process, as JSON"
    )
    return parser


if __name__ == "__main__":
    main()
