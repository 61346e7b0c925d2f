"""Twice the work on two ranks with a thread each: which fraction of twice the speed is left of it.

``python -m benchmarks.weak_scaling --repeats 5``: runs of one rank and of two, with twice the prompts in a step, take
turns. Counted are the completions' tokens of a step by the seconds of its rollout, votes and update; the first steps of
a phase warm up. The fraction is the speed of two ranks by twice that of one, from the medians of all steps of all runs.
It prints a table by role and stage, which says where the time goes that is lost, and writes it into docs/scaling.md.
Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.ranks import ENVIRONMENT, LIMIT_SECONDS, PAGE, ROOT, STRATEGIES
from benchmarks.tables import number, table, written

STAGES = {"questioner": ("rollout", "votes", "update"), "reasoner": ("rollout", "update")}
PROMPTS = {"questioner": 4, "reasoner": 16}
"""Of a step of one rank."""
STEPS, WARM_UP = 8, 2
Speeds = dict[int, dict[tuple[str, str], list[float]]]
"""By the number of ranks, tokens per second of every step, by role and stage."""


def run(directory: Path, cache: Path, ranks: int, options: Sequence[str]) -> Path:
    """Make a run of so many ranks, each with the same work; its directory.

    Raises:
        RuntimeError: It failed.
    """
    line = [sys.executable, "-m", "visplay", "fit", f"--config={ROOT / 'configs/tiny.yaml'}"]
    line += [*options, f"--trainer.devices={ranks}", f"--trainer.default_root_dir={directory}"]
    line += ["--self_play.iterations=1", "--trainer.num_sanity_val_steps=0"]
    line += ["--self_play.curation={images: 32, low: 0.0, high: 1.0, gates: [], second_view: null}"]
    line += ["--data={n_images: 64, heldout_questions: 4, heldout_votes: 2}", f"--data.cache={cache}"]
    for role, prompts in PROMPTS.items():
        grpo = f"--model.{role}.init_args.grpo"
        line += [f"{grpo}.steps={STEPS}", f"{grpo}.prompts_per_step={prompts * ranks}"]
    done = subprocess.run(
        line, cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=LIMIT_SECONDS
    )
    if done.returncode:
        raise RuntimeError(f"{ranks} ranks: ended with {done.returncode}: {done.stderr[-3000:]}")
    return directory / "tiny" / "version_0"


def read_steps(directory: Path) -> dict[tuple[str, str], list[float]]:
    """Tokens per second of each step that counts, by role and stage."""
    events = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    events.Reload()
    speeds = defaultdict(list)
    for role, stages in STAGES.items():
        names = ["completion_tokens", "sampled_groups", *(f"{stage}_seconds" for stage in stages)]
        columns = [[event.value for event in events.Scalars(f"{role}/{name}")][WARM_UP:] for name in names]
        for length, groups, *seconds in zip(*columns, strict=True):
            for stage, of_stage in zip((*stages, "all"), (*seconds, sum(seconds)), strict=True):
                speeds[role, stage].append(length * groups / of_stage)
    return speeds


def compare(speeds: Speeds) -> list[list[str]]:
    """Of each role and stage, the median speed of one rank and of two, and the fraction of twice the one."""
    rows = []
    for role, stage in speeds[1]:
        one, two = (median(speeds[ranks][role, stage]) for ranks in (1, 2))
        rows.append([role, stage, number(one), number(two), f"{two / (2 * one):.0%}"])
    return rows


def main() -> None:
    """Run in turns, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--strategy", choices=STRATEGIES, default="ddp", help="of the two ranks")
    options = parser.parse_args()
    speeds: Speeds = {ranks: defaultdict(list) for ranks in (1, 2)}
    with tempfile.TemporaryDirectory(prefix="visplay-weak-scaling-") as place:
        for repeat in range(options.repeats):
            for ranks, chosen in ((1, []), (2, STRATEGIES[options.strategy])):
                directory = run(Path(place, f"{repeat}-{ranks}"), Path(place, "images"), ranks, chosen)
                for key, values in read_steps(directory).items():
                    speeds[ranks][key] += values
            print(f"repeat {repeat + 1} of {options.repeats}", flush=True)
    text = table(["role", "stage", "tokens/s, 1 rank", "tokens/s, 2 ranks", "of twice the speed"], compare(speeds))
    PAGE.write_text(written(PAGE.read_text(), weak_scaling=text))
    print(text)


if __name__ == "__main__":
    main()
