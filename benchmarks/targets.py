"""The headline keys of ``results.json``: what each means, and what it is to reach."""

from __future__ import annotations

from typing import NamedTuple


class Target(NamedTuple):
    """What a headline key means and is to reach.

    Args:
        meaning: In words.
        bound: The least allowed value, or the most if ``at_most``; None where nothing is asked.
        at_most: Whether smaller is better.
    """

    meaning: str
    bound: float | None = None
    at_most: bool = False

    def text(self) -> str:
        """The bound with its direction, empty if there is none."""
        return "" if self.bound is None else f"{'≤' if self.at_most else '≥'} {self.bound:g}"

    def verdict(self, value: float | None) -> str:
        """Whether a value reaches it: yes, no, nothing asked (empty), or not measured."""
        if value is None:
            return "not measured"
        if self.bound is None:
            return ""
        met = value <= self.bound if self.at_most else value >= self.bound
        return "yes" if met else "**no**"


TARGETS = {
    "update_speedup_vs_trl": Target("an update, times as fast as TRL's GRPOTrainer", 4.0),
    "step_speedup_vs_trl": Target("a whole step, times as fast as TRL's GRPOTrainer", 2.5),
    "update_speedup_vs_padded": Target("an update, times as fast as with padded rows"),
    "prefix_bound_fraction": Target(
        "least share over the grid of the speed-up that saved tokens and images allow", 0.85
    ),
    "prefix_bound_share_median": Target("its median over the grid"),
    "update_speedup_vs_trl_float32": Target("an update in float32, times as fast as TRL's"),
    "step_speedup_vs_trl_float32": Target("a whole step in float32, times as fast as TRL's"),
    "update_speedup_vs_padded_float32": Target("an update in float32, times as fast as with padded rows"),
    "rollout_speedup_vs_generate": Target("a rollout, times as fast as transformers' generate"),
    "votes_speedup_vs_generate": Target("votes, times as fast as transformers' generate", 3.0),
    "head_memory_ratio": Target("peak memory of the head, lean over full logits", 0.25, at_most=True),
    "plan_memory_error": Target(
        "measured over planned peak memory of a step, greatest distance from 1", 0.15, at_most=True
    ),
    "cluster_4096_seconds": Target("clustering of 4096 questions, seconds", 3.0, at_most=True),
    "cluster_512x8_seconds": Target("clustering of 512 groups of 8 questions, seconds", 0.5, at_most=True),
    "overhead_fraction": Target(
        "fraction of a step that is neither model nor optimizer nor sampling", 0.03, at_most=True
    ),
    "evaluation_ms_per_row": Target(
        "evaluating a row besides decoding, prompt and generation, milliseconds", 2.0, at_most=True
    ),
    "matmul_peak_fraction": Target("fraction of the measured peak of matrix products in an update", 0.20),
}
