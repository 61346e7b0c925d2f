"""After each phase the policy that learned, as a directory that other programs load."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from visplay.callbacks.export.export_store import ExportStore, Retention
from visplay.callbacks.export.hub import HubTarget, UploadError, push_to_hub
from visplay.callbacks.export.model_card import CardFacts, model_card, public_name, read_scores
from visplay.callbacks.logging import run_directory
from visplay.callbacks.self_play import SelfPlay
from visplay.modules.policy.vlm import VLM
from visplay.modules.policy.weights.saving import ExportFormat, export_bytes, write_policy
from visplay.modules.training import GRPOModule, TrainedRole

logger = logging.getLogger(__name__)
SOURCES = {"images": "images", "labelled": "labelled questions", "silver": "generated questions"}
"""What a card calls the arguments of a data module."""


class Export(Callback):
    """Writes ``directory/iteration-<n>/<role>`` after each phase: weights, processor, tokenizer, chat template, card.

    The format is Hugging Face's; see ``visplay.modules.policy.weights.saving``. That everything will fit the disk
    budget is seen before the run, and again before each export. The first rank alone writes, for which sharded weights
    are gathered one after the other.

    Args:
        directory: Where exports are; null is ``exports`` in the run's own directory.
        form: Type of the weights, and whether an adapter is written alone.
        roles: Whose policies are written; null writes those of all that learn.
        keep: Which iterations stay, and how much disk they may take.
        hub: Where on the Hub each export goes as well; null uploads nothing. An upload that fails is logged.
    """

    def __init__(
        self,
        directory: str | None = None,
        form: ExportFormat = ExportFormat(),  # noqa: B008 (frozen)
        roles: Sequence[str] | None = None,
        keep: Retention = Retention(),  # noqa: B008 (frozen)
        hub: HubTarget | None = None,
    ) -> None:
        self.directory = directory
        self.form = form
        self.roles = roles
        self.keep = keep
        self.hub = hub

    def store(self, trainer: Trainer) -> ExportStore:
        """Where a run's exports are."""
        return ExportStore(Path(self.directory) if self.directory else run_directory(trainer) / "exports", self.keep)

    def on_fit_start(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """See that the exports of the run will fit, and that each has a path of its own.

        Raises:
            DiskBudgetError: They will not.
            ValueError: ``adapter_only``, and a policy is no adapter; a metric, and nobody who is validated; one
                repository for several roles; or exports of later iterations in the directory.
        """
        turns = [name for name in pl_module.roles if self.roles is None or name in self.roles]
        if self.keep.metric is not None and pl_module.validated is None:
            raise ValueError(f"metric: {self.keep.metric!r}, but a {type(pl_module).__name__} alone is not validated")
        if self.hub is not None and len({self.hub.name(role) for role in turns}) < len(turns):
            raise ValueError(f"repo: {self.hub.repo!r} would take what {' and '.join(turns)} learn; put {{role}} in it")
        needed = export_bytes(pl_module.role.vlm, self.form) * len(turns)
        self_play = next((callback for callback in trainer.callbacks if isinstance(callback, SelfPlay)), None)
        iterations, first = (self_play.iterations, self_play.phase.iteration) if self_play else (1, 1)
        store = self.store(trainer)
        if trainer.is_global_zero:
            store.check_plan(needed, iterations, first)

    def on_validation_end(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """See within a fit that the metric of the best is measured; after the first step only an error is logged.

        Raises:
            ValueError: It is not, before the first step.
        """
        metric, scores = self.keep.metric, pl_module.scores
        if trainer.state.fn != TrainerFn.FITTING or metric is None or metric in scores:
            return
        message = f"metric: {metric!r} is not measured; the validation measures {sorted(scores)}"
        if trainer.sanity_checking:
            raise ValueError(message)
        logger.error("%s: this iteration is not the best one", message)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Write the policy that learned, and note how good the iteration is.

        Raises:
            DiskBudgetError: It does not fit; nothing was written.
        """
        role, store, run = pl_module.role, self.store(trainer), run_directory(trainer)
        if self.roles is None or role.name in self.roles:
            if trainer.is_global_zero:
                self._write(trainer, pl_module, role, store, run)
            elif role.vlm.sharded:
                deque(role.vlm.weights(), maxlen=0)  # rank 0 gathers each of them
        if trainer.is_global_zero and role.name == list(pl_module.roles)[-1]:
            store.finish(pl_module.phase.iteration, pl_module.scores.get(self.keep.metric or ""))
        trainer.strategy.barrier()

    def _write(self, trainer: Trainer, module: GRPOModule, role: TrainedRole, store: ExportStore, run: Path) -> None:
        iteration = module.phase.iteration
        scores = read_scores(run, iteration) if role.name == "reasoner" else {}
        settings = role_settings(role) | {"seed": module.seed}
        data = describe_data(trainer.datamodule)
        loads = role.vlm.auto_model.__name__
        card = model_card(CardFacts(role.name, role.vlm.path, self.form, iteration, data, settings, scores, loads))
        write = partial(write_export, role.vlm, self.form, card)
        directory = store.write(iteration, role.name, export_bytes(role.vlm, self.form), write)
        logger.info("%s of iteration %d: %s", role.name, iteration, directory)
        if self.hub is not None:
            try:
                repo = push_to_hub(directory, self.hub, role.name, f"{role.name}, iteration {iteration}")
                logger.info("%s is at %s on the Hub", directory, repo)
            except UploadError as error:  # the run goes on
                logger.error("%s", error)


def write_export(vlm: VLM, form: ExportFormat, card: str, directory: Path) -> None:
    """Write a policy and its card into a directory."""
    write_policy(vlm, directory, form)
    (directory / "README.md").write_text(card, encoding="utf-8")


def role_settings(role: TrainedRole) -> dict[str, Any]:
    """What a role learns with."""
    reward = {"reward": role.reward} if hasattr(role, "reward") else {}
    return {"grpo": role.config, "template": role.template, "tuning": role.vlm.tuning} | reward


def describe_data(data: Any) -> dict[str, str]:
    """What a data module reads, without paths of this machine."""
    paths = {
        "images": getattr(getattr(data, "image_source", None), "path", None),
        "labelled": getattr(getattr(data, "labelled_source", None), "path", None),
        "silver": getattr(data, "silver_path", None),
    }
    return {"module": type(data).__name__} | name_sources(paths)


def name_sources(paths: Mapping[str, str | None]) -> dict[str, str]:
    """What a card says of the paths, where there are any, that a data module was given by ``SOURCES``' names."""
    return {SOURCES[argument]: public_name(path) for argument, path in paths.items() if path}
