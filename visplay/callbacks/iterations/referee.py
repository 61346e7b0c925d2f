"""Asks the advance rule after a phase, and before a data set is learned from; says so, and goes back where it must."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lightning import Trainer

from visplay.callbacks.iterations.advance import AdvanceRule, Decision, PhaseReport
from visplay.callbacks.iterations.kept_weights import KeptWeights
from visplay.callbacks.logging import log_scalars
from visplay.modules.training import GRPOModule

logger = logging.getLogger(__name__)


class Referee:
    """What the advance rule decides, and the weights that it may go back to.

    Those are kept in CPU memory and in every checkpoint: for "rollback" what all roles trained as they made the last
    data set that was learned from, for "restart" what the roles that learn from examples began the run with.

    Args:
        rule: The rule; None always moves on.

    Attributes:
        verdict: On the data set of the phase under way; other than "advance" it is not learned from.
        curation: What the last data set that was learned from is like; empty before the first.
        kept: The weights.
    """

    def __init__(self, rule: AdvanceRule | None) -> None:
        self.rule = rule
        self.verdict: Decision = "advance"
        self.curation: dict[str, float] = {}
        self.kept = KeptWeights()

    @property
    def idle(self) -> bool:
        """Whether the phase under way takes no steps."""
        return self.verdict in ("rollback", "stop")

    def begin_run(self, module: GRPOModule) -> None:
        """Keep what a restart goes back to, and see that a rollback can be."""
        if self.rule is not None and self.rule.goes_back is not None:
            restarts = self.rule.goes_back == "restart"
            roles = module.roles.values()
            self.kept.keep(role.vlm for role in roles if not restarts or role.learns_from == "examples")

    def judge_dataset(self, trainer: Trainer, module: GRPOModule, report: PhaseReport) -> None:
        """Decide whether the phase learns from the data set that was just made, and go back if it does not.

        Args:
            trainer: Has the loggers.
            module: Its policies go back.
            report: What is known; what the last good data set is like is filled in.
        """
        if self.rule is None:
            return
        report = replace(report, curation_before=self.curation)
        self.verdict = self.rule.decide_on_dataset(report)
        self._log(trainer, report, self.verdict)
        policies = [role.vlm for role in module.roles.values()]
        if self.verdict == "advance":
            self.curation = dict(report.curation)
            if self.rule.goes_back == "rollback":
                self.kept.keep(policies)
        elif self.verdict != "stop":
            self.kept.put_back(policies)

    def judge_phase(self, trainer: Trainer, report: PhaseReport) -> Decision:
        """Decide what follows a phase that is over; where its data set was not learned from, that was decided."""
        verdict, self.verdict = self.verdict, "advance"
        if self.rule is None or verdict != "advance":
            return verdict
        decision = self.rule.decide(report)
        self._log(trainer, report, decision)
        return decision

    def _log(self, trainer: Trainer, report: PhaseReport, decision: Decision) -> None:
        """Say what was decided, and of what, on the axis of iterations."""
        assert self.rule is not None, "who has decided"
        measured, phase = self.rule.measure(report), report.phase
        if measured is None:
            return
        values = {"measured": measured, "least": self.rule.least, "moved_on": float(decision == "advance")}
        log_scalars(trainer, f"advance/{phase.role}", values, phase.iteration)
        if decision != "advance":
            name, where = type(self.rule).__name__, f"iteration {phase.iteration}, {phase.role}"
            logger.warning("%s: %s is %s, not above %s: %s", where, name, measured, self.rule.least, decision)

    def state_dict(self) -> dict[str, Any]:
        """The verdict on the phase under way, and what is kept."""
        return {"verdict": self.verdict, "curation": dict(self.curation), "kept": self.kept.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Undo ``state_dict``."""
        self.verdict, self.curation = state_dict["verdict"], dict(state_dict["curation"])
        self.kept.load_state_dict(state_dict["kept"])
