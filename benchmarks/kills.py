"""Kills small runs again and again, and compares what comes of each with a run that nobody stopped, bit for bit.

``python -m benchmarks.kills --kills 7 --variant LoRA -- --model.init_args.seed=1``: so many kills of each of the
``VARIANTS``, or of those that are named; what follows ``--`` are further options of ``visplay fit``. Each run of the
embedded default is killed (SIGKILL) a few times, when it does one of ``STAGES`` for the first to third time or a moment
later, and started again by the same command with ``--auto_resume``, until it ends. Compared are the weights, optimizers
and state of the loop in its last checkpoint, the generated data, the summary, and all that was logged but times.
No process, shared memory or unfinished file may outlive a kill. It prints a line per kill and a table of all, and exits
with 1 where anything differs or is left; docs/reliability.md has what was measured.
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import psutil
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parents[1]
STAGES = {  # what a run does, and the calls during which it does
    "rollout": "visplay.modules.role.Role.rollout",
    "votes": "visplay.modules.reasoner.Reasoner.vote_on",
    "update": "visplay.modules.learner.grpo.GRPO._update",
    "curation": "visplay.modules.visplay.VisPlay.propose",
    "data set": "visplay.callbacks.curation.curator.write_examples",
    "validation": "visplay.modules.training.GRPOModule.validation_step",
    "checkpoint": "visplay.callbacks.checkpoints.DurableCheckpointIO.save_checkpoint",
}
LIMIT_SECONDS = 600
NOTE_BYTES = 64
TIMES = ("_seconds", "_per_second")
SMALL = [
    *("--data.n_images=24", "--data.heldout_questions=4", "--data.heldout_votes=2"),
    "--step_checkpoint.every_n_steps=2",
]
SMALL_PLAY = (
    *("--self_play.curation.images=8", "--self_play.curation.images_per_batch=4"),
    *("--model.reasoner.voting.votes=4", "--self_play.curation.low=0", "--self_play.curation.high=1"),
    *("--self_play.curation.gates=[]", "--self_play.curation.second_view=null"),
    *(f"--model.{role}.grpo.prompts_per_step=2" for role in ("questioner", "reasoner")),
    *(f"--model.{role}.grpo.steps=3" for role in ("questioner", "reasoner")),
)


@dataclass(frozen=True)
class Variant:
    """A kind of run.

    Args:
        configs: Names of files in ``configs``, the first of which names the run.
        options: Of ``visplay fit``.
        stages: Those of ``STAGES`` that it has.
    """

    configs: tuple[str, ...] = ("tiny",)
    options: Sequence[str] = SMALL_PLAY
    stages: Sequence[str] = tuple(STAGES)


VARIANTS = {
    "two policies": Variant(),
    "shared policy": Variant(options=(*SMALL_PLAY, "--model.init_args.shared_policy=true")),
    "LoRA": Variant(("tiny", "lora")),
    "Reasoner alone": Variant(
        ("tiny_labelled",),
        ("--model.grpo.prompts_per_step=2", "--model.grpo.steps=3"),
        ("rollout", "update", "validation", "checkpoint"),
    ),
    "vLLM": Variant(("tiny", "vllm"), (*SMALL_PLAY, "--rollout.init_args.engine.cache_gib=0.05")),
}


def fit(arguments: Sequence[str]) -> None:
    """Run ``visplay fit`` and write what it does now, and within what, into the file that is named first."""
    from importlib import import_module
    from pydoc import locate

    from visplay.cli import run

    note = os.open(arguments[0], os.O_RDWR | os.O_CREAT)

    def noting(stage: str, call: Callable) -> Callable:
        def noted(*given: Any, **named: Any) -> Any:
            before = os.pread(note, NOTE_BYTES, 0)
            os.pwrite(note, "/".join([*_stages(before), stage]).encode().ljust(NOTE_BYTES), 0)
            try:
                return call(*given, **named)
            finally:
                os.pwrite(note, before, 0)

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
        variant: Its kind.
        options: Further options of ``visplay fit``.

    Attributes:
        left: Processes and shared memory that outlived a kill.
    """

    def __init__(self, directory: Path, images: Path, variant: Variant, options: Sequence[str]) -> None:
        self.directory, self.note = directory, directory / "stage"
        self.versions, self.left = directory / variant.configs[0], list[str]()
        directory.mkdir(parents=True)
        self.options = [
            *(f"--config={ROOT / 'configs' / name}.yaml" for name in variant.configs),
            *(*SMALL, *variant.options, "--auto_resume"),
            *(f"--trainer.default_root_dir={directory}", f"--data.cache={images}", *options),
        ]

    def start(self) -> subprocess.Popen:
        """The command; its output goes to ``log``."""
        self.note.write_bytes(b" " * NOTE_BYTES)
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
            The outermost stage that it was in, or None if it ended before.

        Raises:
            RuntimeError: It failed, or hung.
        """
        process, seen, before = self.start(), 0, list[str]()
        limit = time.monotonic() + LIMIT_SECONDS
        while process.poll() is None and seen < time_of_stage and time.monotonic() < limit:
            now = _stages(self.note.read_bytes())
            seen += stage in now and stage not in before
            before = now
            time.sleep(0.002)
        time.sleep(after_seconds)
        ended = process.poll()
        if ended or time.monotonic() >= limit:
            process.kill()
            raise RuntimeError((self.directory / "log").read_text()[-4000:])
        if ended == 0:
            return None
        parent = psutil.Process(process.pid)
        children = parent.children(recursive=True)
        shared = shared_memory([parent, *children])
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs(children, timeout=10)
        self.left += [f"process {each.pid}" for each in alive] + [name for name in shared if Path(name).exists()]
        return (_stages(self.note.read_bytes()) or ["between stages"])[0]

    @property
    def version(self) -> Path:
        """The last one; one that was killed before its first checkpoint was started anew."""
        return max(self.versions.iterdir(), key=lambda path: int(path.name.removeprefix("version_")))

    def outcome(self) -> dict[str, Any]:
        """All that came of it, by name."""
        checkpoint = torch.load(max((self.version / "checkpoints").glob("phase-??.ckpt")), weights_only=True)
        state = {**checkpoint["callbacks"]["SelfPlay"]}
        dataset = Path(state.pop("dataset") or os.devnull)
        state["learned"] = [sha256 for _, sha256 in state["learned"]]
        facts = {"data set": dataset.read_bytes(), "generated": {}, "summary": ""}
        for path in [*self.version.glob("generated/*.parquet"), *self.version.glob("generated/*/*.jsonl")]:
            facts["generated"][str(path.relative_to(self.version))] = path.read_bytes()
        if (self.version / "summary.json").is_file():
            facts["summary"] = (self.version / "summary.json").read_text()
        facts["unfinished files"] = sorted(path.name for path in self.version.rglob(".*.tmp"))
        kept = {name: checkpoint[name] for name in ("state_dict", "optimizer_states", "learners", "random")}
        return facts | kept | {"loop": state, "curves": curves(self.version)}


def _stages(note: bytes) -> list[str]:
    """The stages in a note, the outermost first."""
    return [stage for stage in note.decode().strip().split("/") if stage]


def shared_memory(processes: Sequence[psutil.Process]) -> list[str]:
    """Files in /dev/shm that processes have mapped, on Linux."""
    maps = (Path(f"/proc/{each.pid}/maps") for each in processes)
    lines = (line for path in maps if path.is_file() for line in path.read_text().splitlines())
    return sorted({line[line.index("/dev/shm/") :] for line in lines if "/dev/shm/" in line})


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


def measure(
    directory: Path, variant: Variant, kills: int, options: Sequence[str], seed: int = 0, per_run: int = 5
) -> tuple[Counter[str], list[str]]:
    """Kill runs, and compare each with one that nobody stopped.

    Args:
        directory: Where they write.
        variant: Their kind.
        kills: How often, in all.
        options: Further options of ``visplay fit``.
        seed: Of the moments.
        per_run: Kills of one run.

    Returns:
        Kills by what the run was doing; and, by name, what came out otherwise or was left behind.
    """
    whole = Run(directory / "whole", directory / "images", variant, options)
    whole.finish()
    expected = whole.outcome()
    draw, counts, number, stages = random.Random(seed), Counter[str](), 0, cycle(variant.stages)
    faults, stage = list[str](), next(stages)
    while counts.total() < kills:
        number += 1
        run = Run(directory / f"killed-{number}", directory / "images", variant, options)
        for _ in range(min(per_run, kills - counts.total())):
            occurrence, after_seconds = draw.randint(1, 3), draw.choice((0, draw.uniform(0, 0.05)))
            found = run.kill(stage, occurrence, after_seconds)
            if found is None:  # it came to its end; the next run is killed there, unless there is no such stage
                stage = next(stages) if occurrence == 1 else stage
                break
            counts[found] += 1
            print(f"run {number}: killed in {found} (aimed at {stage}, number {occurrence})", flush=True)
            stage = next(stages)
        else:
            run.finish()
        found_otherwise = differences(expected, run.outcome()) + run.left
        print(f"run {number}: {len(found_otherwise)} differences {found_otherwise[:5]}", flush=True)
        faults += [f"run {number}: {name}" for name in found_otherwise]
    return counts, faults


def format_table(counts: Mapping[str, Counter[str]]) -> str:
    """Kills by stage (rows) and variant (columns), in Markdown."""
    stages = [*STAGES, "between stages"]
    rows = [["killed in", *counts], ["---"] * (len(counts) + 1)]
    rows += [[stage, *(str(each[stage]) for each in counts.values())] for stage in stages]
    rows += [["in all", *(str(each.total()) for each in counts.values())]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Kill, compare, print."""
    if sys.argv[1:2] == ["--child"]:
        fit(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=8, help="how often, of each variant")
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="may be given again; all without any")
    parser.add_argument("--iterations", type=int, default=3, help="of each run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = sys.argv[1:]
    end = given.index("--") if "--" in given else len(given)
    options = parser.parse_args(given[:end])
    further = [f"--self_play.iterations={options.iterations}", *given[end + 1 :]]
    counts: dict[str, Counter[str]] = {}
    faults: dict[str, list[str]] = {}
    for name in options.variant or VARIANTS:
        print(f"{name}:", flush=True)
        with tempfile.TemporaryDirectory(prefix="visplay-kills-") as directory:
            place, variant = Path(directory), VARIANTS[name]
            counts[name], faults[name] = measure(place, variant, options.kills, further, options.seed)
    print(format_table(counts))
    if found := [f"{name}, {fault}" for name in faults for fault in faults[name]]:
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
