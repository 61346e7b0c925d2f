"""A model family is checked the first time that its checkpoint is used."""

from __future__ import annotations

from pathlib import Path

from lightning import Callback, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from visplay.checking.check_record import check_once, was_checked
from visplay.modules.policy.vlm import VLM
from visplay.modules.policy.weights.placement import placed
from visplay.modules.training import GRPOModule
from visplay.ranks import failing_together, rank
from visplay.tiny import BASE


class ModelCheck(Callback):
    """Compares each policy with its checkpoint's processor and its model's own forward, once for a path and revision.

    It takes seconds and ends the run where they differ, see ``visplay check``. What was found right is noted in a file
    (``visplay.checking.check_record``); the embedded base is not checked. Of a policy that is sharded, rank 0 loads the
    checkpoint once more, in CPU memory, and checks that.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Check the policies that learn.

        Raises:
            FamilyError: One does not compute what its checkpoint does.
        """
        for role in pl_module.roles.values():
            _check(role.vlm, trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Check who answers, where nothing is fitted."""
        if trainer.state.fn == TrainerFn.VALIDATING and pl_module.validated is not None:
            _check(pl_module.validated.vlm, trainer)

    def on_test_start(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Check who answers."""
        if pl_module.validated is not None:
            _check(pl_module.validated.vlm, trainer)


def _check(vlm: VLM, trainer: Trainer) -> None:
    if Path(vlm.path).resolve() == BASE.resolve():
        return
    if not vlm.sharded:
        with placed(vlm, trainer.strategy.root_device):
            check_once(vlm)
        return
    with failing_together():
        if rank() == 0 and not was_checked(vlm, "cpu"):
            whole = vlm.unloaded()
            whole.load()
            check_once(whole)
