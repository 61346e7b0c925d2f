"""Where the time of the loop goes on the embedded default: ``make bench``.

Prints medians over alternating rounds. Run it alone: two busy processes slow each other several-fold.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.generate import plain_generate
from visplay.callbacks import TransformersRollout
from visplay.clock import Clock
from visplay.functional import group_advantages
from visplay.modules import GRPOConfig, Qwen2_5_VL, Reasoner
from visplay.tiny import ANSWER, BASE
from visplay.tiny.splits import heldout

PROMPTS, GROUP, TOKENS = 32, 8, 48


def make_reasoner() -> Reasoner:
    """A Reasoner on the embedded base with the settings of ``configs/tiny.yaml``."""
    config = GRPOConfig(prompts_per_step=PROMPTS, prompts_per_update=None, group_size=GROUP, max_new_tokens=TOKENS)
    reasoner, vlm = Reasoner(config, ANSWER), Qwen2_5_VL(str(BASE))
    reasoner.adopt(vlm, Clock())
    vlm.load()
    reasoner.attach_engine(TransformersRollout())
    return reasoner


def generate(reasoner: Reasoner) -> int:
    """Sample with ``generate(num_return_sequences=G)``; returns the number of tokens."""
    vlm, stops = reasoner.vlm, torch.tensor(reasoner.vlm.stop_token_ids)
    new = plain_generate(vlm, reasoner.prompts(heldout(PROMPTS)), GROUP, TOKENS)
    stopped = torch.isin(new, stops).cumsum(-1)
    return int((stopped - torch.isin(new, stops).long() == 0).sum())


def measure(rounds: int) -> dict[str, tuple[float, float]]:
    """Median seconds and tokens per second of each part, the parts taking turns."""
    reasoner, examples = make_reasoner(), heldout(PROMPTS)
    optimizer = reasoner.make_optimizer()
    reasoner.learner.begin_phase(reasoner.vlm, optimizer)
    rollout = reasoner.rollout(examples, GROUP, seed=0)
    rewards = torch.rand(PROMPTS, GROUP, generator=torch.Generator().manual_seed(0))
    batch = reasoner.collate(rollout).with_advantages(group_advantages(rewards))
    batch = reasoner.learner._score_before(reasoner.vlm, batch)
    (mini,) = batch.split(None)
    optimizer.step = lambda: None  # the weights stay, so that every round does the same work
    tokens = int(batch.mask.sum())

    def sample() -> int:
        return sum(len(c.token_ids) for g in reasoner.rollout(examples, GROUP, seed=0).completions for c in g)

    def update() -> int:
        reasoner.learner._update(reasoner.vlm, mini, optimizer, lambda loss: loss.backward())
        return tokens

    parts: dict[str, Callable[[], int]] = {
        "rollout": sample,
        "generate(num_return_sequences)": lambda: generate(reasoner),
        "update": update,
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in parts}
    for _ in range(rounds + 1):
        for name, part in parts.items():
            start = time.perf_counter()
            done = part()
            elapsed = time.perf_counter() - start
            seconds[name].append((elapsed, done / elapsed))
    return {name: tuple(map(statistics.median, zip(*values[1:], strict=True))) for name, values in seconds.items()}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count; one more warms up")
    rounds = parser.parse_args().rounds
    table = Table("part", "seconds", "tokens/s", title=f"{PROMPTS} prompts x {GROUP} answers, median of {rounds}")
    for name, (seconds, speed) in measure(rounds).items():
        table.add_row(name, f"{seconds:.3f}", f"{speed:,.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
