"""Watches what a run measures: warns, or ends a phase that goes wrong and keeps the last policy that was well."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lightning import Callback, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from visplay.callbacks.diagnostics import Diagnostics
from visplay.callbacks.iterations.kept_weights import copy_weights, put_back
from visplay.callbacks.self_play import SelfPlay
from visplay.modules.training import GRPOModule

logger = logging.getLogger(__name__)

_OF_STEPS = {
    "images": {
        "vote_margin": "vote_margin",
        "parsed_fraction": "parsed_fraction",
        "duplicate_fraction": "repeated_fraction",
        "difficulty_drift": "difficulty",
        "entropy": "entropy",
    },
    "examples": {"parsed_fraction": "parsed_fraction", "entropy": "entropy"},
}
"""Metrics of the steps of a role, by what it learns from and by the rule that reads them."""
_OF_CURATION = {
    "vote_margin": "vote_margin",
    "duplicate_fraction": "duplicate_fraction",
    "blind_fraction": "answerable_without_image_fraction",
}
"""Metrics of the data set of a phase that learns from examples."""
_LEAST = ("vote_margin", "parsed_fraction", "entropy")
_FRACTIONS = ("vote_margin", "parsed_fraction", "duplicate_fraction", "difficulty_drift", "blind_fraction")
_MEANINGS = {
    "vote_margin": (
        "the majority hardly leads, so silver answers are guesses: vote with more answers, or keep questions of higher "
        "confidence (curation.low)"
    ),
    "parsed_fraction": (
        "completions lose the form that the prompt asks for, or are truncated (truncated_fraction): see the samples, "
        "raise kl_weight, or lower the learning rate"
    ),
    "duplicate_fraction": (
        "the Questioner repeats itself: raise redundancy_weight or the temperature, or give it fewer steps"
    ),
    "difficulty_drift": (
        "questions are no longer as hard as at first: harder ones get worse silver answers, easier ones teach nothing; "
        "raise kl_weight, or take fewer steps"
    ),
    "blind_fraction": (
        "questions can be answered without their image, so that looking is not learned: see the samples and the "
        "Questioner's prompt"
    ),
    "entropy": (
        "the policy is nearly deterministic, so that the completions of a group agree and teach nothing: raise "
        "kl_weight, entropy_weight or clip_high, or lower the learning rate"
    ),
    "probe": (
        "the Reasoner gets worse on labelled questions, though agreement may rise: it learns wrong silver answers; "
        "see silver_accuracy, vote_margin and curation.low"
    ),
}
"""What it usually means that a rule is broken, and what to change."""


@dataclass(frozen=True)
class Limit:
    """When a rule is broken, and what happens then.

    Args:
        limit: The least or the highest value, as the rule says.
        action: "warn" says so, once in a phase; "end_phase" ends the phase as well, and keeps the last good policy.

    Raises:
        ValueError: The limit is negative or not finite, or there is no such action.
    """

    limit: float
    action: Literal["warn", "end_phase"] = "warn"

    def __post_init__(self) -> None:
        """Reject limits that mean nothing."""
        if not (math.isfinite(self.limit) and self.limit >= 0):
            raise ValueError(f"limit: {self.limit} must be a finite number, at least 0")
        if self.action not in ("warn", "end_phase"):
            raise ValueError(f"action: must be 'warn' or 'end_phase', got {self.action!r}")


class Health(Callback):
    """Compares metrics that are measured anyway with limits; a rule that is null is not watched.

    Metrics of steps are means over a window within a phase; those of the data set are looked at from the first step of
    the phase that learns from it, and the probe at every validation. Where a rule that ends the phase is broken, the
    policy that learns gets the weights back with which all such rules were last kept: those that sampled that step, or
    that were validated if ``probe`` ends the phase, at least those of the phase's start. To have them it copies what
    the policy trains into CPU memory before each step, and keeps two copies (one, where ``probe`` ends the phase); of
    LoRA the adapter alone. Rules that only warn copy nothing. A checkpoint keeps the best score of the probe, and the
    difficulty of the first questions.

    Args:
        window: Steps over which metrics of steps are averaged; shorter phases take all of theirs.
        vote_margin: Least lead of the majority over the runner-up: of the Questioner's steps, and of the data set.
        parsed_fraction: Least fraction of completions with the required form, of both roles.
        duplicate_fraction: Highest fraction of questions asked before: in their group, by the Questioner's steps, and
            about one image, in the data set.
        difficulty_drift: Largest difference of the mean difficulty of questions to that of the run's first window.
        blind_fraction: Highest fraction of questions answered without their image; needs ``Diagnostics``.
        entropy: Least entropy of the next-token distribution in nats, of both roles.
        probe: Furthest that a validation score may be below the best so far, the base's included.
        probe_metric: Which score: ``val/heldout/rule_accuracy``.

    Attributes:
        best: The best score of the probe so far; None before the first.
        first_difficulty: Mean difficulty of the run's first window; None before it.

    Raises:
        ValueError: A limit is none, or ``probe`` and ``probe_metric`` do not come together.
    """

    def __init__(
        self,
        window: int = 5,
        vote_margin: Limit | None = None,
        parsed_fraction: Limit | None = None,
        duplicate_fraction: Limit | None = None,
        difficulty_drift: Limit | None = None,
        blind_fraction: Limit | None = None,
        entropy: Limit | None = None,
        probe: Limit | None = None,
        probe_metric: str | None = None,
    ) -> None:
        if window < 1:
            raise ValueError(f"window: {window} must be at least 1")
        if (probe is None) != (probe_metric is None):
            raise ValueError(f"probe, probe_metric: give both or none, got {probe} and {probe_metric!r}")
        given = {
            "vote_margin": vote_margin,
            "parsed_fraction": parsed_fraction,
            "duplicate_fraction": duplicate_fraction,
            "difficulty_drift": difficulty_drift,
            "blind_fraction": blind_fraction,
            "entropy": entropy,
        }
        self.rules = {name: limit for name, limit in given.items() if limit is not None}
        for name in set(self.rules) & set(_FRACTIONS):
            if self.rules[name].limit > 1:
                raise ValueError(f"{name}: limit {self.rules[name].limit} must be between 0 and 1")
        self.window = window
        self.probe = probe
        self.probe_metric = probe_metric
        self.best: float | None = None
        self.first_difficulty: float | None = None
        self._steps: deque[dict[str, float]] = deque(maxlen=window)
        self._broken: set[str] = set()
        self._good: list[Tensor] | None = None
        self._before_step: list[Tensor] | None = None
        self._good_scores: dict[str, float] = {}
        self._self_play: SelfPlay

    def setup(self, trainer: Trainer, pl_module: GRPOModule, stage: str) -> None:
        """See that what is watched is measured.

        Raises:
            ValueError: It is not.
        """
        if stage != "fit":
            return
        self._self_play = next(c for c in trainer.callbacks if isinstance(c, SelfPlay))
        blind = any(isinstance(c, Diagnostics) and c.blind_questions for c in trainer.callbacks)
        if "blind_fraction" in self.rules and not blind:
            raise ValueError("blind_fraction: needs the callback Diagnostics with blind_questions above 0")
        if self.probe is not None and pl_module.validated is None:
            raise ValueError(f"probe: {self.probe_metric!r}, but a {type(pl_module).__name__} alone is not validated")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Begin a phase; its policy is good so far."""
        continued = pl_module.phase.step > 0
        kept = self._steps if continued else []
        self._steps = deque(kept, maxlen=min(self.window, pl_module.role.config.steps))
        self._broken = self._broken if continued else set()
        watched = _OF_STEPS[pl_module.role.learns_from] | self._curated(pl_module)
        ends = any(name in watched and rule.action == "end_phase" for name, rule in self.rules.items())
        if ends or self._ends_by_probe(pl_module):
            self._good = copy_weights(pl_module.role.vlm)
            self._good_scores = dict(self._self_play.scores) if self._self_play.validate_every == 1 else {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: GRPOModule, batch: Any, batch_idx: int) -> None:
        """Copy the policy that samples this step, which only then tells how it is."""
        if self._good is not None and not self._ends_by_probe(pl_module):
            self._before_step = None  # let it go before there is another one
            self._before_step = self._good if batch_idx == 0 else copy_weights(pl_module.role.vlm)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: GRPOModule, outputs: Any, batch: Sequence, batch_idx: int
    ) -> None:
        """Compare the window with the limits."""
        if pl_module.result is None or not self.rules:
            return
        self._steps.append(pl_module.result.statistics | pl_module.result.judgement.statistics)
        broken = {name for name, value in self._measure(pl_module).items() if self._is_broken(name, value)}
        self._react(trainer, pl_module, broken)
        full = len(self._steps) == self._steps.maxlen
        if full and self._before_step is not None and not any(self.rules[n].action == "end_phase" for n in broken):
            self._good = self._before_step

    def on_validation_end(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Compare the probe with the best so far.

        Raises:
            ValueError: The metric is not measured, before the first step.
        """
        if self.probe is None or self.probe_metric is None or trainer.state.fn != TrainerFn.FITTING:
            return
        score = pl_module.scores.get(self.probe_metric)
        if score is None:
            message = f"probe_metric: {self.probe_metric!r} is not measured; validation gave {sorted(pl_module.scores)}"
            if trainer.sanity_checking:
                raise ValueError(message)
            logger.error("%s", message)
            return
        if self.best is not None and score < self.best - self.probe.limit:
            where = f"{self.probe_metric} is {score:.3g}, more than {self.probe.limit:g} below the best so far, "
            self._say(trainer, pl_module, "probe", self.probe, f"{where}{self.best:.3g}")
            if self._ends_by_probe(pl_module) and self._good is not None:
                self._end_phase(trainer, pl_module)
                pl_module.scores = self._good_scores or pl_module.scores
            return
        self.best = score if self.best is None else max(self.best, score)
        if self._ends_by_probe(pl_module) and self._good is not None:
            self._good = None
            self._good, self._good_scores = copy_weights(pl_module.role.vlm), dict(pl_module.scores)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Let the weights go."""
        self._good = self._before_step = None

    def state_dict(self) -> dict[str, Any]:
        """What later phases are compared with, and the window of the phase under way."""
        window = {"steps": list(self._steps), "broken": sorted(self._broken)}
        return {"best": self.best, "first_difficulty": self.first_difficulty} | window

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Undo ``state_dict``."""
        self.best, self.first_difficulty = state_dict["best"], state_dict["first_difficulty"]
        self._steps.extend(state_dict["steps"])
        self._broken.update(state_dict["broken"])

    def _ends_by_probe(self, module: GRPOModule) -> bool:
        """Whether it is the probe's word whether the policy that learns is good."""
        answers = module.validated is not None and module.validated.vlm is module.role.vlm
        return answers and self.probe is not None and self.probe.action == "end_phase"

    def _curated(self, module: GRPOModule) -> dict[str, str]:
        return _OF_CURATION if module.role.learns_from == "examples" and self._self_play.statistics else {}

    def _measure(self, module: GRPOModule) -> dict[str, float]:
        """What the rules compare, by their names; those that do not apply, or cannot yet be known, are left out."""
        found = {}
        for name, metric in _OF_STEPS[module.role.learns_from].items():
            values = [step[metric] for step in self._steps if math.isfinite(step.get(metric, math.nan))]
            if len(values) == self._steps.maxlen:
                found[name] = sum(values) / len(values)
        statistics = self._self_play.statistics
        found |= {n: statistics[metric] for n, metric in self._curated(module).items() if metric in statistics}
        if "difficulty_drift" in found:
            if self.first_difficulty is None:
                self.first_difficulty = found["difficulty_drift"]
            found["difficulty_drift"] = abs(found["difficulty_drift"] - self.first_difficulty)
        return {name: value for name, value in found.items() if name in self.rules}

    def _is_broken(self, name: str, value: float) -> bool:
        limit = self.rules[name].limit
        return value < limit if name in _LEAST else value > limit

    def _react(self, trainer: Trainer, module: GRPOModule, broken: set[str]) -> None:
        """Say which rules are broken now, and end the phase if one of them does."""
        measured = self._measure(module)
        for name in sorted(broken - self._broken):
            side = "below" if name in _LEAST else "above"
            what = f"{name} is {measured[name]:.3g}, {side} its limit {self.rules[name].limit:g}"
            self._say(trainer, module, name, self.rules[name], what)
        self._broken |= broken
        if any(self.rules[name].action == "end_phase" for name in broken):
            self._end_phase(trainer, module)

    def _say(self, trainer: Trainer, module: GRPOModule, name: str, rule: Limit, what: str) -> None:
        phase = module.phase
        ends = ". The phase ends, and its last good policy is kept" if rule.action == "end_phase" else ""
        where = f"iteration {phase.iteration}, {phase.role}, step {phase.step}"
        logger.warning("%s: %s: %s%s (docs/health.md)", where, what, _MEANINGS[name], ends)

    def _end_phase(self, trainer: Trainer, module: GRPOModule) -> None:
        """End the phase with this step, with the weights of the last good policy."""
        assert self._good is not None, "a phase that a rule can end begins with a copy"
        put_back(module.role.vlm, self._good)
        self._self_play.end_phase(trainer)
