"""One of two ranks: scores its half of the items, and rank 0 also scores all of them before the ranks meet."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.data import DistributedSampler

from answers import batch, item
from visplay.metrics import (
    BenchmarkAverage,
    BenchmarkScores,
    HallusionBenchAccuracy,
    JudgeAccuracy,
    MMVetScore,
    PairedComparison,
    RuleAccuracy,
    SampledAccuracy,
    SuiteScores,
)

ROWS = 13


def measure(items: Sequence[int], rank: int = 0) -> dict[str, str]:
    """What each metric says of the items, which are named and graded by their numbers."""
    rule, judge, hallusion = RuleAccuracy(), JudgeAccuracy(), HallusionBenchAccuracy()
    vet, sampled, average, comparison = MMVetScore(), SampledAccuracy(3), BenchmarkAverage(), PairedComparison()
    first, suite = RuleAccuracy(), SuiteScores({name: BenchmarkScores(1, judges=["m"]) for name in "xy"}, ["m"])
    for number in items:
        key, right, figure = [f"item {number} ü"], [number % 3 == 0], [f"figure {number // 2}"]
        rule.update(key, right, figure)
        judge.update(key, right, [None if number % 4 == 0 else number / ROWS])
        hallusion.update(key, right, [f"pair {number // 4}"], figure)
        vet.update(key, right, [number / ROWS], [["ocr", "math"][: 1 + number % 2]])
        sampled.update(key, [[True, number % 2 == 0, right[0]]], right)
        average.update(f"benchmark {number % 2}", key, right)
        comparison.update("before", key, right)
        comparison.update("after", key, [number % 2 == 0])
        answered = item(*key, *right, samples=[number % 2 == 0])
        suite.update(batch(answered, benchmark="x"))
        suite.update(batch(benchmark="y", **{f"skipped {number}": "no image"}))
        suite.update_judged("m", "x", [answered], [None if number % 4 == 0 else number / ROWS])
        if rank == 0:
            first.update(["only on rank 0"], [True])
            suite.update(batch(item("only on rank 0", True, [True]), benchmark="y"))
            suite.update_judged("m", "y", [item("only on rank 0", True, [True])], [0.5])
    metrics = [rule, judge, hallusion, vet, sampled, average, comparison, first, suite]
    return {f"{place} {type(metric).__name__}": repr(metric.compute()) for place, metric in enumerate(metrics)}


def main(directory: str) -> None:
    torch.set_num_threads(1)
    rank = int(os.environ["VISPLAY_TEST_RANK"])
    alone = measure(range(ROWS)) if rank == 0 else None
    torch.distributed.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=2)
    mine = list(DistributedSampler(range(ROWS), shuffle=True, seed=1))
    said = {"alone": alone, "items": mine, "together": measure(mine, rank)}
    Path(directory, f"{rank}.json").write_text(json.dumps(said))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
