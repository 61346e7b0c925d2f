"""The small run on 1, 2 and 4 CPU ranks: whether the number of ranks, and the strategy, change what comes of it.

``python -m benchmarks.ranks --strategy ddp fsdp2 --ranks 1 2 4``: each strategy on each number of ranks is compared
with one rank without any. Samples, votes and rewards of every step, generated rows and admitted questions have to be
equal byte for byte, the weights at the end of each phase within 1e-5 (relative, of all), and the summary to three
digits; else the exit code is 1. It writes its table into docs/scaling.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.tables import table, written

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/scaling.md"
STRATEGIES = {
    "ddp": ["--trainer.strategy=ddp"],
    "fsdp2": ["--trainer.strategy=fsdp2"],
}
"""Options of ``visplay fit`` for each strategy."""
SMALL = [
    "--self_play.iterations=1",
    "--self_play.curation={images: 7, images_per_batch: 4, questions_per_image: 2, low: 0.0, high: 1.0, gates: []}",
    "--model.questioner.init_args.grpo.steps=2",
    "--model.questioner.init_args.grpo.prompts_per_step=3",
    "--model.reasoner.init_args.grpo.steps=2",
    "--model.reasoner.init_args.grpo.prompts_per_step=5",
    "--model.reasoner.init_args.grpo.prompts_per_update=2",
    "--data={n_images: 24, heldout_questions: 16, heldout_votes: 2, validation_batch_size: 8}",
]
"""Options of a run that has all there is, and takes seconds."""
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
LIMIT_SECONDS = 1800


def fit(arguments: Sequence[str]) -> None:
    """Run ``visplay fit``, and write what rank 0 learns from in each step into the file that is named first."""
    from visplay.cli import run
    from visplay.modules.learner.grpo import GRPO
    from visplay.ranks import rank

    step = GRPO.step

    def noting(*given: Any, **named: Any) -> Any:
        result = step(*given, **named)
        if rank() == 0:
            facts = {
                "samples": [[c.token_ids for c in group] for group in result.rollout.completions],
                "votes": [repr(record.vote) for record in result.judgement.records],
                "rewards": result.judgement.rewards.tolist(),
            }
            with Path(arguments[0]).open("a") as file:
                file.write(f"{json.dumps(facts)}\n")
        return result

    GRPO.step = noting  # type: ignore[method-assign]
    run(["fit", *arguments[1:]])


def start(directory: Path, options: Sequence[str]) -> None:
    """Make the small run.

    Raises:
        RuntimeError: It failed.
    """
    directory.mkdir(parents=True)
    line = [sys.executable, "-m", "benchmarks.ranks", "--child", str(directory / "steps.jsonl")]
    line += [f"--config={ROOT / 'configs/tiny.yaml'}", *options, *SMALL, f"--trainer.default_root_dir={directory}"]
    run = subprocess.run(
        line, cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=LIMIT_SECONDS
    )
    if run.returncode:
        raise RuntimeError(f"{' '.join(options)}: ended with {run.returncode}: {run.stderr[-3000:]}")


def outcome(directory: Path) -> dict[str, Any]:
    """All that came of a run, by name."""
    run = directory / "tiny" / "version_0"
    steps = [json.loads(line) for line in (directory / "steps.jsonl").read_text().splitlines()]
    checkpoints = sorted((run / "checkpoints").glob("phase-??.ckpt"))
    return {
        **{name: [step[name] for step in steps] for name in ("samples", "votes", "rewards")},
        "generated rows": [path.read_bytes() for path in sorted(run.glob("generated/*/*.jsonl"))],
        "admitted questions": [path.read_bytes() for path in sorted(run.glob("generated/*.parquet"))],
        "weights": [torch.load(path, weights_only=True)["state_dict"] for path in checkpoints],
        "summary": json.loads((run / "summary.json").read_text()),
    }


def distance(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Relative distance of all weights from others."""
    assert state.keys() == expected.keys()
    far = math.hypot(*(float((state[name] - weight).norm()) for name, weight in expected.items()))
    return far / math.hypot(*(float(weight.norm()) for weight in expected.values()))


def _difference(score: float | None, other: float | None) -> float:
    """Of two scores, either of which may not be known."""
    if score is None or other is None:
        return 0.0 if score is other else math.inf
    return abs(score - other)


def compare(found: Mapping[str, Any], expected: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """What is found of each kind, in words, and the names of what is not as it has to be."""
    words, wrong = dict[str, str](), list[str]()
    for name in ("samples", "votes", "rewards", "generated rows", "admitted questions"):
        equal = found[name] == expected[name]
        words[name] = "equal" if equal else "**other**"
        wrong += [] if equal else [name]
    far = max(distance(*pair) for pair in zip(found["weights"], expected["weights"], strict=True))
    rows = zip(found["summary"], expected["summary"], strict=True)
    off = max(_difference(row[name], other[name]) for row, other in rows for name in other)
    words |= {"weights": f"{far:.1e}", "summary": f"{off:.1e}"}
    return words, wrong + ["weights"] * (far > 1e-5) + ["summary"] * (off > 5e-4)


def main() -> None:
    """Run, compare, write."""
    if sys.argv[1:2] == ["--child"]:
        fit(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategy", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2, 4])
    options = parser.parse_args()
    rows, faults = list[list[str]](), list[str]()
    with tempfile.TemporaryDirectory(prefix="visplay-ranks-") as place:
        start(Path(place, "alone"), [])
        expected = outcome(Path(place, "alone"))
        for strategy in options.strategy:
            for ranks in options.ranks:
                directory = Path(place, f"{strategy}-{ranks}")
                start(directory, [*STRATEGIES[strategy], f"--trainer.devices={ranks}"])
                words, wrong = compare(outcome(directory), expected)
                rows.append([strategy, str(ranks), *words.values()])
                faults += [f"{strategy}, {ranks} ranks: {name}" for name in wrong]
                print(*rows[-1], sep=" | ", flush=True)
    text = table(["strategy", "ranks", *words], rows)
    PAGE.write_text(written(PAGE.read_text(), ranks=text))
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
