"""Where the time of the loop goes on the embedded default: ``make bench``.

Run it alone: two busy processes slow each other several-fold. Figures: ``rows``, for each part ``seconds`` and
``tokens_per_second``, ``Spread``s; "generate" is transformers' own with ``num_return_sequences``; ``prompts``, ``G``,
``T``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from benchmarks.measure import Spread, alternate
from benchmarks.results import make_parser, parse, publish
from benchmarks.workload import plain_generate
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
    """Sample with ``generate(num_return_sequences=G)``, the same every time; returns the number of tokens."""
    torch.manual_seed(0)
    vlm, stops = reasoner.vlm, torch.tensor(reasoner.vlm.stop_token_ids)
    new = plain_generate(vlm, reasoner.prompts(heldout(PROMPTS)), GROUP, TOKENS)
    stopped = torch.isin(new, stops).cumsum(-1)
    return int((stopped - torch.isin(new, stops).long() == 0).sum())


def measure(rounds: int) -> dict[str, dict[str, Spread]]:
    """Seconds and tokens per second of each part, the parts taking turns."""
    reasoner, examples = make_reasoner(), heldout(PROMPTS)
    optimizer = reasoner.make_optimizer()
    reasoner.learner.begin_phase(reasoner.vlm, optimizer)
    rollout = reasoner.rollout(examples, GROUP, seed=0)
    rewards = torch.rand(PROMPTS, GROUP, generator=torch.Generator().manual_seed(0))
    batch = replace(reasoner.collate(rollout), advantages=group_advantages(rewards))
    batch = reasoner.learner._score_before(reasoner.vlm, batch)
    (mini,) = batch.mini_batches(None)
    optimizer.step = lambda: None  # the weights stay, so that every round does the same work
    parts: dict[str, Callable[[], object]] = {
        "rollout": lambda: reasoner.rollout(examples, GROUP, seed=0),
        "generate": lambda: generate(reasoner),
        "update": lambda: reasoner.learner._update(reasoner.vlm, mini, optimizer, lambda loss: loss.backward()),
    }
    sampled = sum(len(c.token_ids) for g in rollout.completions for c in g)
    seconds = alternate(parts, rounds)
    done = {"rollout": sampled, "generate": generate(reasoner), "update": int(batch.mask.sum())}
    return {name: {"seconds": s, "tokens_per_second": s.rate(done[name])} for name, s in seconds.items()}


def main() -> None:
    """Measure, print a table, and record it where it is asked for."""
    options = parse(make_parser(__doc__))
    figures = {"rows": measure(options.rounds), "prompts": PROMPTS, "G": GROUP, "T": TOKENS}
    publish("loop", figures, {}, options)


if __name__ == "__main__":
    main()
