"""Evaluation: every answered item on disk, continued after a stop; judges; tables."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from visplay.benchmark_answers import BatchAnswers
from visplay.callbacks.logging import check_shared, run_directory, tensorboard_writers
from visplay.data.benchmarks.benchmark import Benchmark
from visplay.data.files import replacing
from visplay.evaluation import (
    AnswerStore,
    as_json,
    as_markdown,
    as_rich,
    describe_usage,
    detail_table,
    judge_answers,
    judge_name,
    read_usage,
    score_table,
    write_agreement,
    write_usage,
)
from visplay.judge import Judge, JudgeConfig
from visplay.modules.answering import Answering
from visplay.modules.policy.weights.model_source import ModelSource
from visplay.modules.training import GRPOModule
from visplay.terminal import Terminal

logger = logging.getLogger(__name__)
_NAME = re.compile(r"[\w.-]+")


class Evaluation(Callback):
    """Writes what is answered in ``validate``, ``test`` and the validation within a fit, and says what it is worth.

    The answers of a model are stored in ``directory/<name>-<hash>``, where the hash is of all that they follow from:
    weights, prompt, sampling, engine, precision. An evaluation that is started again continues there; one with other
    weights or settings has a directory of its own. Within a fit they are stored in the run's own directory, and a run
    that is continued with the same weights goes on with the validation that was under way.

    Args:
        directory: Where evaluations are kept.
        answering: How benchmarks are answered.
        judges: Chat models that judge the greedy answers besides the rule; a cache that is null is kept in
            ``directory``.
        models: What ``visplay test`` evaluates, by name; the first one is what the others are compared with. Null is
            the configuration's own model, ``base``, and with ``--ckpt_path`` what ``roles`` learned from it.
        roles: Whose policies ``--ckpt_path`` stands for.

    Attributes:
        name: What the model under evaluation is called.
        store: Its items.
        console: Where tables are shown.

    Raises:
        ValueError: Two judges have one name, or a model's is no name.
    """

    def __init__(
        self,
        directory: str = "runs/evaluation",
        answering: Answering = Answering(),  # noqa: B008 (frozen)
        judges: Sequence[JudgeConfig] = (),
        models: dict[str, ModelSource] | None = None,
        roles: Sequence[str] = ("reasoner",),
    ) -> None:
        names = [judge_name(config) for config in judges]
        if len(set(names)) != len(names):
            raise ValueError(f"judges: their names must differ, got {names}")
        for name in models or {}:
            if not _NAME.fullmatch(name):
                raise ValueError(f"models: {name!r} must consist of letters, digits, '_', '-' and '.'")
        self.directory = Path(directory)
        self.answering = answering
        kept = [
            replace(config, cache_directory=config.cache_directory or f"{directory}/judge-cache") for config in judges
        ]
        self.judges = {name: Judge(config) for name, config in zip(names, kept, strict=True)}
        self.models = models
        self.roles = tuple(roles)
        self.name = "base"
        self.console = Terminal()
        self._store: AnswerStore | None = None
        self._facts: dict[str, Any] = {}
        self._before: dict[str, frozenset[str]] = {}
        self._under_way = False

    def setup(self, trainer: Trainer, pl_module: GRPOModule, stage: str) -> None:
        """Tell the module how to answer and the data what is answered already; see that judges could be asked."""
        self._store, self._under_way = None, False
        pl_module.evaluated, pl_module.answering = self.name, self.answering
        pl_module.judges = tuple(self.judges)
        trainer.datamodule.answered_keys = lambda benchmark: self._answered_keys(trainer, pl_module, benchmark)
        for judge in self.judges.values():
            judge.check_environment()

    @property
    def store(self) -> AnswerStore:
        """The answers of the evaluation under way, or of the last one; a RuntimeError if there was none."""
        if self._store is None:
            raise RuntimeError("store: nothing was evaluated yet")
        return self._store

    def sources(self, ckpt_path: str | None) -> dict[str, ModelSource]:
        """What to evaluate, by name; a ValueError for models and a checkpoint, or for a path that no run wrote."""
        if self.models:
            if ckpt_path is not None:
                raise ValueError(f"ckpt_path: models are given, name {ckpt_path!r} among them: {sorted(self.models)}")
            return self.models
        if ckpt_path is not None and not ckpt_path.endswith(".ckpt"):
            raise ValueError(f"ckpt_path: need a run's checkpoint, *.ckpt, got {ckpt_path!r}; others go into models")
        sources = {"base": ModelSource()}
        for role in () if ckpt_path is None else self.roles:
            sources[role] = ModelSource(ckpt_path, role)
        return sources

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: GRPOModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Write a batch."""
        self.store.append(outputs, trainer.global_rank)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Count the items that were answered before, and have all judged."""
        ranks, scores = (trainer.global_rank, trainer.world_size), pl_module.benchmark_metrics
        for benchmark, keys in self._before.items():
            for answers in self.store.read(benchmark, *ranks):
                before = tuple(item for item in answers.items if item.key in keys)
                skipped = {key: reason for key, reason in answers.skipped.items() if key in keys}
                scores.update(BatchAnswers(benchmark, before, skipped))
        for name, judge in self.judges.items():
            for benchmark, metrics in scores.benchmarks.items():
                pl_module.clock.note = f"{benchmark}, judged by {name}"
                scores.update_judged(name, benchmark, (), ())
                for items, found in judge_answers(judge, self.store, benchmark, metrics.scoring.graded, ranks):
                    scores.update_judged(name, benchmark, items, found)
            write_usage(self.store, name, judge.drain_usage(), ranks[0])

    on_test_epoch_end = on_validation_epoch_end

    def on_validation_end(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        """Write and, outside a fit, show the tables."""
        self._under_way = False
        if trainer.state.fn == TrainerFn.FITTING:  # the next one asks anew what is left to answer
            trainer.fit_loop.epoch_loop.val_loop._combined_loader = None
        if not trainer.is_global_zero:
            return
        directory, reports = self.store.directory, pl_module.reports
        tables = [table for table in (score_table(reports), detail_table(reports)) if len(table) > 1]
        usage = [describe_usage(name, read_usage(self.store, name, trainer.world_size)) for name in self.judges]
        text = "\n\n".join([f"# {self.name}", *map(as_markdown, tables), *usage])
        with replacing(directory / "scores.json") as file:
            file.write(json.dumps({"settings": self._facts, "scores": as_json(reports)}, indent=2).encode())
        with replacing(directory / "scores.md") as file:
            file.write(f"{text}\n".encode())
        write_agreement(self.store, directory / "agreement.md")
        fitting = trainer.state.fn == TrainerFn.FITTING
        step = pl_module.phase.iteration if fitting and not trainer.sanity_checking else 0
        for writer in tensorboard_writers(trainer):
            writer.add_text(f"test/{self.name}/scores" if trainer.testing else "val/scores", text, step)
        if not fitting:
            for table in tables:
                self.console.print(as_rich(table, self.name))
            for line in [*usage, f"answers and tables: {directory}"]:
                self.console.print(line, soft_wrap=True)

    on_test_end = on_validation_end

    def _answered_keys(self, trainer: Trainer, module: GRPOModule, benchmark: Benchmark) -> Collection[str]:
        """Keys of the items that this model has answered before, with the same settings.

        Raises:
            ValueError: An answered item is not one of the benchmark, or has another number of samples.
        """
        if not self._under_way:
            self._begin(trainer, module)
        samples, keys = module.samples_of(benchmark), set[str]()
        for answers in self.store.read(benchmark.name):
            keys.update(answers.skipped)
            for item in answers.items:
                try:
                    benchmark.check(item.key, item.problem, item.gold)
                except ValueError as error:
                    raise ValueError(
                        f"{error}; for another benchmark than in {self.store.directory} give another directory"
                    ) from error
                if len(item.samples) != samples:
                    raise ValueError(
                        f"votes: {benchmark.name!r} was answered with {len(item.samples)} samples each in "
                        f"{str(self.store.directory)!r}, now {samples} are asked for; give another evaluation.directory"
                    )
                keys.add(item.key)
        if keys:
            logger.info("%s: %d of %d items were answered before", benchmark.name, len(keys), len(benchmark))
        self._before[benchmark.name] = frozenset(keys)
        return keys

    def _begin(self, trainer: Trainer, module: GRPOModule) -> None:
        """Open the answers that there are of what is evaluated; those of others in their place are removed."""
        facts, fitting = self._describe(trainer, module), trainer.state.fn == TrainerFn.FITTING
        if fitting:
            facts["iteration"] = 0 if trainer.sanity_checking else module.phase.iteration
            self.name = f"iteration-{facts['iteration']}"
            directory = run_directory(trainer) / "evaluation" / self.name
        else:
            code = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]
            directory = self.directory / f"{self.name}-{code}"
        self._store, self._facts, self._before, self._under_way = AnswerStore(directory), facts, {}, True
        if trainer.is_global_zero:
            settings, text = directory / "settings.json", json.dumps(facts, indent=2, sort_keys=True).encode()
            of_some_rows = trainer.sanity_checking and trainer.num_sanity_val_steps != float("inf")
            if fitting and (of_some_rows or not settings.is_file() or settings.read_bytes() != text):
                shutil.rmtree(directory, ignore_errors=True)
            self._store.repair()
            with replacing(settings) as file:
                file.write(text)
        check_shared(directory, "evaluation.directory")

    def _describe(self, trainer: Trainer, module: GRPOModule) -> dict[str, Any]:
        """All that the answers follow from, as plain values."""
        reasoner = module.validated
        assert reasoner is not None, "the module rejects to evaluate what does not answer"
        vlm, template = reasoner.vlm, self.answering.template or reasoner.template
        return {
            "weights": vlm.fingerprint(),
            "template": asdict(template),
            "sampling": asdict(self.answering.sampling(reasoner, module.seed)),
            "samples": self.answering.samples,
            "pixels": [vlm.min_pixels, vlm.max_pixels],
            "context_tokens": vlm.context_tokens,
            "engine": type(reasoner.engine).__name__,
            "precision": str(trainer.precision),
            "max_images": trainer.datamodule.suite.max_images,
        }
