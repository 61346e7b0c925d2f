"""What checkpoints within a phase cost: seconds to note the state after a step, and to write it, beside the step.

``python -m benchmarks.checkpoints --model 100m``: the Questioner's phase of ``configs/tiny.yaml`` with random models of
some sizes in place of the base, in float32, a checkpoint after every step. It holds both policies, a reference and an
optimizer's state. The fraction is that of a run at the default: the state noted after every step, and written every
five minutes, or later where that would take more than ``most_time_fraction``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector

from benchmarks.models import make_policy
from visplay.callbacks.checkpoints import STEP_FILES, DurableCheckpointIO, StepCheckpoint
from visplay.cli import run
from visplay.modules.training import GRPOModule

ROOT = Path(__file__).parents[1]
CALLS = {
    "step": (GRPOModule, "training_step"),
    "note": (_CheckpointConnector, "dump_checkpoint"),
    "write": (DurableCheckpointIO, "save_checkpoint"),
}


@contextmanager
def timed(owner: type, name: str) -> Iterator[list[float]]:
    """Within it, seconds of each call of a method."""
    method, seconds = getattr(owner, name), list[float]()

    def call(*given: Any, **named: Any) -> Any:
        start = time.perf_counter()
        try:
            return method(*given, **named)
        finally:
            seconds.append(time.perf_counter() - start)

    setattr(owner, name, call)
    try:
        yield seconds
    finally:
        setattr(owner, name, method)


def measure(model: str, steps: int, directory: Path) -> dict[str, float]:
    """Take some steps: medians of seconds, and the size of a checkpoint.

    Args:
        model: One of ``benchmarks.models.SHAPES``.
        steps: Of the Questioner.
        directory: Where the model and the run are written.
    """
    policy = make_policy(model, directory, "cpu")
    weights = sum(each.numel() for each in policy.parameters())
    line = [
        *("fit", f"--config={ROOT / 'configs' / 'tiny.yaml'}", f"--model.vlm.path={policy.path}"),
        *(f"--model.questioner.grpo.steps={steps}", "--model.questioner.grpo.prompts_per_step=2"),
        *(f"--trainer.max_steps={steps}", "--trainer.num_sanity_val_steps=0", "--data.n_images=24"),
        *("--step_checkpoint.every_n_steps=1", f"--trainer.default_root_dir={directory / 'runs'}"),
    ]
    del policy
    with timed(*CALLS["step"]) as step, timed(*CALLS["note"]) as note, timed(*CALLS["write"]) as write:
        run(line)
    *_, last = (directory / "runs").rglob(STEP_FILES)
    found = {name: median(seconds[1:]) for name, seconds in (("step", step), ("note", note), ("write", write))}
    return found | {"weights": weights, "bytes": last.stat().st_size}


def fraction(step: float, note: float, write: float) -> float:
    """Of the time of a run at the default settings.

    Args:
        step: Seconds of a step.
        note: Seconds to note the state after it.
        write: Seconds to write a checkpoint.
    """
    default = StepCheckpoint()
    between = max(60 * (default.every_n_minutes or 0), write / default.most_time_fraction)
    return note / (step + note) + write / (between + write)


def main() -> None:
    """Measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="of benchmarks.models; may be given again")
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    rows = ["| weights of a policy | a step, s | to note, ms | to write, s | a checkpoint, MB | fraction of a run |"]
    rows.append("|---|---|---|---|---|---|")
    sys.argv = ["visplay"]
    for model in options.model or ["tiny", "20m", "100m"]:
        with tempfile.TemporaryDirectory(prefix="visplay-checkpoints-") as directory:
            found = measure(model, options.steps, Path(directory))
        seconds = {name: found[name] for name in CALLS}
        rows.append(
            f"| {found['weights'] / 1e6:,.1f} M | {found['step']:.2f} | {1000 * found['note']:.1f} | "
            f"{found['write']:.2f} | {found['bytes'] / 1e6:,.0f} | {100 * fraction(**seconds):.2f} % |"
        )
    print("\n".join(rows))


if __name__ == "__main__":
    main()
