"""Several models on the same benchmarks, one after the other, and what became better."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from lightning import Trainer

from visplay.callbacks.engines.engine import RolloutEngine
from visplay.callbacks.evaluation import Evaluation
from visplay.callbacks.logging import tensorboard_writers
from visplay.data.files import replacing
from visplay.data.module import SelfPlayData
from visplay.evaluation import AnswerStore, as_markdown, as_rich, compare_stores, comparison_table
from visplay.modules.training import GRPOModule
from visplay.terminal import Terminal


def evaluate_models(trainer: Trainer, module: GRPOModule, data: SelfPlayData, ckpt_path: str | None = None) -> None:
    """Evaluate what ``Evaluation.models`` and the checkpoint name, and compare each with the first.

    Args:
        trainer: It has an ``Evaluation`` and a rollout engine among its callbacks.
        module: Who answers.
        data: The benchmarks.
        ckpt_path: A checkpoint that a run wrote; None evaluates the configuration's own model.

    Raises:
        FileNotFoundError: There is no such checkpoint or model.
        ValueError: Nobody answers, or a checkpoint is not one of this model.
    """
    evaluation = next(callback for callback in trainer.callbacks if isinstance(callback, Evaluation))
    engine = next(callback for callback in trainer.callbacks if isinstance(callback, RolloutEngine))
    reasoner = module.validated
    if reasoner is None:
        raise ValueError(f"model: a {type(module).__name__} alone does not answer; test a Reasoner or VisPlay")
    sources = evaluation.sources(ckpt_path)
    for source in sources.values():
        source.check()
    configured, stores, served = reasoner.vlm, {}, None
    try:
        with engine.kept():
            for name, source in sources.items():
                vlm = source.load(configured)
                if served not in (None, (vlm.path, vlm.processor_settings)):
                    engine.close()  # it was started for another configuration, or for images that are cut otherwise
                served = vlm.path, vlm.processor_settings
                reasoner.adopt(vlm, module.clock)
                evaluation.name = name
                trainer.test(module, datamodule=data, verbose=False)
                stores[name] = evaluation.store
    finally:
        reasoner.adopt(configured, module.clock)
    first, *others = stores
    evaluated = [benchmark.name for benchmark in data.benchmarks("test")]
    for name in others if trainer.is_global_zero else ():
        table = comparison_table(compare_stores(stores[first], stores[name], only=evaluated))
        title = f"{name} (after) against {first}"
        text = f"# {title}\n\n{as_markdown(table)}\n"
        with replacing(stores[name].directory / f"against-{stores[first].directory.name}.md") as file:
            file.write(text.encode())
        for writer in tensorboard_writers(trainer):
            writer.add_text(f"test/{name}-against-{first}", text)
        evaluation.console.print(as_rich(table, title))


def run(arguments: Sequence[str]) -> None:
    """``visplay compare``: how evaluations differ from the first; what cannot be done ends the process with its words.

    Args:
        arguments: What follows the command's name.
    """
    parser = argparse.ArgumentParser(
        prog="visplay compare", description="Compare evaluations with the first, row by row."
    )
    parser.add_argument(
        "directories",
        type=os.path.expanduser,
        nargs="+",
        metavar="DIRECTORY",
        help="of an evaluation, such as runs/evaluation/base-0a1b",
    )
    parser.add_argument("--reject-missing", action="store_true", help="fail where one side lacks a row")
    options = parser.parse_args(arguments)
    names = [Path(directory).name for directory in options.directories]
    # Where two are equal, as in two runs, the paths tell.
    named = names if len(set(names)) == len(names) else options.directories
    stores = {name: AnswerStore(Path(directory)) for name, directory in zip(named, options.directories, strict=True)}
    if empty := [name for name, store in stores.items() if not store.benchmarks()]:
        parser.error(f"no answered rows in {', '.join(empty)}")
    if len(stores) < 2:
        parser.error("give two directories or more, each once")
    (first, before), *others = stores.items()
    for name, after in others:
        try:
            found = compare_stores(before, after, "reject" if options.reject_missing else "count")
        except ValueError as error:
            raise SystemExit(f"error: {error}") from error
        Terminal().print(as_rich(comparison_table(found), f"{name} (after) against {first}"))
