"""Kills a small run again and again, and compares what comes of it with a run that nobody stopped, bit for bit.

``python -m benchmarks.kills --kills 20 -- --model.init_args.shared_policy=true``: what follows ``--`` are options of
``visplay fit``. Each run of the embedded default is killed (SIGKILL) a few times, when it does one of ``STAGES`` for
the first to third time or a moment later, and started again by the same command with ``--auto_resume``, until it ends.
Compared are the weights, optimizers and state of the loop in its last checkpoint, the generated data, the summary, and
all that was logged but times. It prints a line per kill, and exits with 1 where anything differs;
docs/reliability.md has what was measured.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parents[1]
STAGES = {  # what a run does, and the calls during which it does
    "rollout": "visplay.modules.role.Role.rollout",
    "votes": "visplay.modules.reasoner.Reasoner.vote_on",
    "update": "visplay.modules.learner.grpo.GRPO._update",
    "curation": "visplay.modules.visplay.VisPlay.propose",
    "data set": "visplay.callbacks.curator.write_examples",
    "validation": "visplay.modules.training.GRPOModule.validation_step",
    "checkpoint": "visplay.callbacks.checkpoints.DurableCheckpointIO.save_checkpoint",
}
LIMIT_SECONDS = 600
TIMES = ("_seconds", "_per_second")
SMALL = [
    *("--data.n_images=24", "--data.heldout_questions=4", "--data.heldout_votes=2"),
    *("--self_play.curation.images=8", "--self_play.curation.images_per_batch=4"),
    *("--model.reasoner.voting.votes=4", "--self_play.curation.low=0", "--self_play.curation.high=1"),
    *(f"--model.{role}.grpo.prompts_per_step=2" for role in ("questioner", "reasoner")),
    *("--model.questioner.grpo.steps=3", "--model.reasoner.grpo.steps=3", "--step_checkpoint.every_n_steps=2"),
]


def fit(arguments: Sequence[str]) -> None:
    """Run ``visplay fit`` and write what it does now into the file that is named first."""
    from importlib import import_module
    from pydoc import locate

    from visplay.cli import run

    note = os.open(arguments[0], os.O_RDWR | os.O_CREAT)

    def noting(stage: str, call: Callable) -> Callable:
        def noted(*given: Any, **named: Any) -> Any:
            before = os.pread(note, 16, 0)
            os.pwrite(note, stage.ljust(16).encode(), 0)
            try:
                return call(*given, **named)
            finally:
                os.pwrite(note, before.ljust(16), 0)

        return noted

    for stage, path in STAGES.items():
        owner, _, name = path.rpartition(".")
        place = locate(owner) or import_module(owner)
        setattr(place, name, noting(stage, getattr(place, name)))
    run(["fit", *arguments[1:]])


class Run:
    """A run of the embedded default in a directory of its own.

    Args:
        directory: Where it writes.
        images: Where the rendered images are kept, for all runs.
        options: Further options of ``visplay fit``.
    """

    def __init__(self, directory: Path, images: Path, options: Sequence[str]) -> None:
        self.directory, self.note = directory, directory / "stage"
        directory.mkdir(parents=True)
        self.options = [
            *("--config", str(ROOT / "configs" / "tiny.yaml"), *SMALL, "--auto_resume"),
            *(f"--trainer.default_root_dir={directory}", f"--data.cache={images}", *options),
        ]

    def start(self) -> subprocess.Popen:
        """The command; its output goes to ``log``."""
        self.note.write_bytes(b" " * 16)
        line = [sys.executable, "-m", "benchmarks.kills", "--child", str(self.note), *self.options]
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(line, cwd=ROOT, stdout=log, stderr=log)

    def finish(self) -> None:
        """Let it end.

        Raises:
            RuntimeError: It failed.
        """
        if self.start().wait(LIMIT_SECONDS):
            raise RuntimeError((self.directory / "log").read_text()[-4000:])

    def kill(self, stage: str, time_of_stage: int, after_seconds: float) -> str | None:
        """Kill it when it does something for the first, second, … time, or a moment later.

        Args:
            stage: What it has to do.
            time_of_stage: For the how manieth time, counted from 1, since the process started.
            after_seconds: The moment.

        Returns:
            The stage that it was in, or None if it ended before.

        Raises:
            RuntimeError: It failed, or hung.
        """
        process, seen, before = self.start(), 0, ""
        limit = time.monotonic() + LIMIT_SECONDS
        while process.poll() is None and seen < time_of_stage and time.monotonic() < limit:
            now = self.note.read_bytes().decode().strip()
            seen += now == stage != before
            before = now
            time.sleep(0.002)
        time.sleep(after_seconds)
        ended = process.poll()
        if ended or time.monotonic() >= limit:
            process.kill()
            raise RuntimeError((self.directory / "log").read_text()[-4000:])
        process.kill()
        process.wait()
        return None if ended == 0 else self.note.read_bytes().decode().strip() or "between stages"

    @property
    def version(self) -> Path:
        """The last one; one that was killed before its first checkpoint was started anew."""
        return max((self.directory / "tiny").iterdir(), key=lambda path: int(path.name.removeprefix("version_")))

    def outcome(self) -> dict[str, Any]:
        """All that came of it, by name."""
        checkpoint = torch.load(max((self.version / "checkpoints").glob("phase-??.ckpt")), weights_only=True)
        state = {**checkpoint["callbacks"]["SelfPlay"]}
        dataset = Path(state.pop("dataset") or os.devnull)
        facts = {"data set": dataset.read_bytes(), "generated": {}, "summary": ""}
        for path in (self.version / "generated").glob("*.parquet"):
            facts["generated"][path.name] = path.read_bytes()
        if (self.version / "summary.json").is_file():
            facts["summary"] = (self.version / "summary.json").read_text()
        kept = {name: checkpoint[name] for name in ("state_dict", "optimizer_states", "learners", "random")}
        return facts | kept | {"loop": state, "curves": curves(self.version)}


def curves(directory: Path) -> dict[str, list[tuple]]:
    """Every point that a run has logged but times, in the order of the log, twice where it is there twice."""
    sizes = {"scalars": 0, "images": 0, "tensors": 0, "histograms": 0}
    found: dict[str, list[tuple]] = {}
    events = EventAccumulator(str(directory), size_guidance=sizes, purge_orphaned_data=False)
    events.Reload()
    tags = events.Tags()
    for tag in tags["scalars"]:
        if not tag.endswith(TIMES):
            found[tag] = [(event.step, event.value) for event in events.Scalars(tag)]
    found |= {
        f"{tag} (image)": [(e.step, e.encoded_image_string) for e in events.Images(tag)] for tag in tags["images"]
    }
    for tag in tags["tensors"]:
        found[f"{tag} (text)"] = [(e.step, e.tensor_proto.SerializeToString()) for e in events.Tensors(tag)]
    for tag in tags["histograms"]:
        found[f"{tag} (histogram)"] = [(e.step, str(e.histogram_value)) for e in events.Histograms(tag)]
    return found


def differences(left: Any, right: Any, name: str = "") -> list[str]:
    """Names of what is not the same in two outcomes."""
    if isinstance(left, dict) and isinstance(right, dict):
        names = sorted({str(key) for key in left.keys() | right.keys()})
        one, two = ({str(key): value for key, value in side.items()} for side in (left, right))
        return [n for key in names for n in differences(one.get(key), two.get(key), f"{name}/{key}")]
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        return [
            n for index, pair in enumerate(zip(left, right, strict=True)) for n in differences(*pair, f"{name}/{index}")
        ]
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        return [] if torch.equal(left, right) else [name]
    return [] if left == right else [name]


def measure(directory: Path, kills: int, options: Sequence[str], seed: int = 0, per_run: int = 5) -> Counter[str]:
    """Kill runs, and compare each with one that nobody stopped.

    Args:
        directory: Where they write.
        kills: How often, in all.
        options: Further options of ``visplay fit``.
        seed: Of the moments.
        per_run: Kills of one run.

    Returns:
        Kills by what the run was doing.

    Raises:
        AssertionError: A run came out otherwise.
    """
    whole = Run(directory / "whole", directory / "images", options)
    whole.finish()
    expected = whole.outcome()
    draw, counts, number, stages = random.Random(seed), Counter[str](), 0, cycle(STAGES)
    while counts.total() < kills:
        number += 1
        run = Run(directory / f"killed-{number}", directory / "images", options)
        for _ in range(min(per_run, kills - counts.total())):
            stage, occurrence = next(stages), draw.randint(1, 3)
            found = run.kill(stage, occurrence, draw.uniform(0, 0.2))
            if found is None:
                break
            counts[found] += 1
            print(f"run {number}: killed in {found} (aimed at {stage}, number {occurrence})", flush=True)
        else:
            run.finish()
        differing = differences(expected, run.outcome())
        print(f"run {number}: {len(differing)} differences {differing[:5]}", flush=True)
        assert not differing, f"run {number} differs from the undisturbed one: {differing}"
    return counts


def main() -> None:
    """Kill, compare, print."""
    if sys.argv[1:2] == ["--child"]:
        fit(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how often, in all")
    parser.add_argument("--iterations", type=int, default=3, help="of each run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = sys.argv[1:]
    end = given.index("--") if "--" in given else len(given)
    options = parser.parse_args(given[:end])
    further = [f"--self_play.iterations={options.iterations}", *given[end + 1 :]]
    with tempfile.TemporaryDirectory(prefix="visplay-kills-") as directory:
        try:
            counts = measure(Path(directory), options.kills, further, options.seed)
        except AssertionError as error:
            sys.exit(str(error))
    print("kills: " + ", ".join(f"{count} in {stage}" for stage, count in counts.most_common()))


if __name__ == "__main__":
    main()
