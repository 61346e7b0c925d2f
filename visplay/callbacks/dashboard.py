"""How TensorBoard tells a run: its page of custom scalars, and the settings and scores on its page of hparams."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.tensorboard.summary import hparams

from visplay.callbacks.logging import log_scalars, run_directory, tensorboard_writers
from visplay.modules.training import GRPOModule

Layout = dict[str, dict[str, list[Any]]]
"""Category to chart to what it shows, as ``SummaryWriter.add_custom_scalars`` takes it."""


class Dashboard(Callback):
    """Lays out TensorBoard's page of custom scalars (``#custom_scalars``), and tells every logger the run's settings.

    Args:
        references: Scores that are known of something else, to draw as a line next to those of a benchmark, in [0, 1]:
            ``{heldout: {true labels: 0.75}}``.

    Attributes:
        settings: Those that differ from the defaults, by dotted name.

    Raises:
        ValueError: A reference is not in [0, 1].
    """

    def __init__(self, references: Mapping[str, Mapping[str, float]] | None = None) -> None:
        self.references = references or {}
        self.settings: dict[str, Any] = {}
        for benchmark, scores in self.references.items():
            for name, score in scores.items():
                if not 0 <= score <= 1:
                    raise ValueError(f"references: {benchmark!r}, {name!r}: need a fraction in [0, 1], got {score}")

    def on_fit_start(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Write the layout and the settings; the log of a run that goes on has them.

        Raises:
            ValueError: There are references for what is not validated.
        """
        answers = pl_module.validated is not None
        benchmarks = [each.name for each in trainer.datamodule.benchmarks("validate")] if answers else []
        if unknown := sorted(self.references.keys() - {*benchmarks}):
            raise ValueError(f"references: there is no benchmark {unknown} to validate on, only {benchmarks}")
        directory = run_directory(trainer)  # of several ranks all have to ask
        if not trainer.is_global_zero:
            return
        goes_on = trainer.ckpt_path is not None and Path(trainer.ckpt_path).parent.parent == directory
        scores = trainer.datamodule.summary_scores.values() or [f"val/{name}/rule_accuracy" for name in benchmarks]
        session, described, _ = hparams(plain := _plain(self.settings), dict.fromkeys(scores if answers else (), 0.0))
        for writer in [] if goes_on else tensorboard_writers(trainer):
            writer.add_custom_scalars(lay_out(benchmarks, list(pl_module.roles)))
            for summary in (session, described):
                writer._get_file_writer().add_summary(summary)
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger):  # its own would add scores of a run that has none yet
                logger.log_hyperparams(plain)

    def on_validation_end(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Draw the references on, as far as the scores go."""
        if trainer.state.fn != TrainerFn.FITTING or not trainer.is_global_zero:
            return
        step = 0 if trainer.sanity_checking else pl_module.phase.iteration
        for benchmark, scores in self.references.items():
            log_scalars(trainer, f"val/{benchmark}/reference", scores, step)

    def on_fit_end(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Say that the session is over."""
        _, _, ended = hparams({}, {})
        for writer in tensorboard_writers(trainer) if trainer.is_global_zero else ():
            writer._get_file_writer().add_summary(ended)


def lay_out(benchmarks: Collection[str], roles: Collection[str]) -> Layout:
    """The charts of a run; a tag is a regular expression, and a chart without a fitting metric stays empty.

    Args:
        benchmarks: Names of those that are validated on.
        roles: Names of those that learn.

    Example:
        >>> lay_out(["heldout"], ["reasoner"])["Learning by step of each role"]["Reward of each role"]
        ['Multiline', ['(reasoner)/reward$']]
    """

    def chart(*tags: str) -> list[Any]:
        return ["Multiline", [f"{tag}$" for tag in tags]]

    role = f"({'|'.join(map(re.escape, roles))})"
    scores = "(rule_accuracy|pass@1|majority|reference/.*)"
    accuracy = {f"{name}: greedy, sampled, majority": chart(f"val/{re.escape(name)}/{scores}") for name in benchmarks}
    questions = {
        "Silver answers: confidence and accuracy": chart(
            "curation/(mean_confidence|estimated_silver_accuracy|silver_accuracy)"
        ),
        "Questions: fractions valid and admitted": chart("curation/(valid_fraction|kept_fraction)"),
        "Questions rejected, by reason": chart("curation/rejected/.*"),
    }
    steps = {
        "Reward of each role": chart(f"{role}/reward"),
        "Questions: difficulty and redundancy": chart(f"{role}/(difficulty|redundancy|memory_redundancy)"),
        "Answers: agreement and confidence": chart(f"{role}/(agreement|confidence)"),
        "Entropy of each policy, nats": chart(f"{role}/entropy"),
        "KL from the reference, nats per token": chart(f"{role}/kl"),
        "Groups that teach nothing, fraction": chart(f"{role}/zero_variance_groups"),
    }
    layout = {
        "Accuracy by iteration (0 is the base)": accuracy,
        "Generated questions by iteration": questions if len(roles) > 1 else {},
        "Learning by step of each role": steps,
    }
    return {category: charts for category, charts in layout.items() if charts}


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as loggers take them: numbers and texts."""
    return {name: v if isinstance(v, bool | int | float | str) else str(v) for name, v in settings.items()}
