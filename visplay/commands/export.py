"""``visplay export``: a role's policy out of a checkpoint, or the best one of a run, as a Hugging Face directory."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from yaml import YAMLError

from visplay.callbacks.checkpoints import STEP_FILES
from visplay.callbacks.export.export_callback import SOURCES, name_sources, role_settings, write_export
from visplay.callbacks.export.export_store import best_of, check_disk
from visplay.callbacks.export.hub import HubTarget, push_to_hub
from visplay.callbacks.export.model_card import CardFacts, model_card, read_scores, score_of
from visplay.callbacks.self_play import SelfPlay
from visplay.commands.settings.configuration import build, read_config
from visplay.data.files import write_whole
from visplay.modules.policy.weights.model_source import ModelSource, check_checkpoint, read_checkpoint
from visplay.modules.policy.weights.saving import ExportFormat, export_bytes
from visplay.modules.training import GRPOModule, TrainedRole
from visplay.terminal import Terminal


class Found(NamedTuple):
    """A checkpoint of a run.

    Args:
        path: Where it is.
        iteration: The last one in which the role had learned when it was written; None where there is none.
        scores: What was measured after that.
    """

    path: Path
    iteration: int | None
    scores: dict[str, Any]


def run(arguments: Sequence[str]) -> None:
    """Write the directory; an error ends the process with its message.

    Args:
        arguments: What follows the command's name.
    """
    options = _parse(arguments)
    try:
        directory = export(options)
        Terminal().print(f"{options.role}: {directory}", soft_wrap=True)
        if options.push_to_hub is not None:
            target = HubTarget(options.push_to_hub, not options.public)
            repo = push_to_hub(directory, target, options.role, f"{options.role} of VisPlay")
            Terminal().print(f"{repo} is on the Hub")
    except (OSError, ValueError, argparse.ArgumentError, YAMLError) as error:
        raise SystemExit(f"error: {error}") from error


def export(options: argparse.Namespace) -> Path:
    """Do what the options say; returns the directory.

    Raises:
        FileNotFoundError: There is no such checkpoint or run.
        ValueError: The directory is there already, or the checkpoint is not one of the configured model.
    """
    output = Path(options.output)
    if not output.name or output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"output: {str(output)!r} is there already; give another directory, or remove it")
    if options.push_to_hub is not None:
        HubTarget(options.push_to_hub)  # rejects what is no name before anything is written
    found = find_checkpoint(Path(options.source), options.role, options.metric, options.lowest)
    config = read_config(options.config or [_config_of(found.path)])
    role = read_role(config, options.role)
    check_checkpoint(str(found.path))
    vlm = ModelSource(str(found.path), options.role).load(role.vlm)
    form = ExportFormat(options.dtype, options.adapter_only)
    check_disk(output, export_bytes(vlm, form))
    scores = found.scores if options.role == "reasoner" else {}
    settings = role_settings(role) | {"seed": OmegaConf.select(config, "model.init_args.seed")}
    data = describe_config(config)
    loads = vlm.auto_model.__name__
    card = model_card(CardFacts(options.role, vlm.path, form, found.iteration, data, settings, scores, loads))
    write_whole(output, partial(write_export, vlm, form, card))
    return output


def find_checkpoint(source: Path, role: str, metric: str | None, lowest: bool = False) -> Found:
    """A checkpoint as it is given, or a run's: of its last phase or, by a metric of the validation, the best.

    Raises:
        FileNotFoundError: There is none.
        ValueError: No iteration with a checkpoint has that metric.
    """
    if source.is_file():
        return _look(source, role)
    directory = source / "checkpoints" if (source / "checkpoints").is_dir() else source
    finished = {*directory.glob("*.ckpt")} - {*directory.glob(STEP_FILES)}
    found = [_look(path, role) for path in sorted(finished, key=lambda path: path.stat().st_mtime_ns)]
    if not found:
        raise FileNotFoundError(
            f"source: {str(source)!r} is no checkpoint, and no directory of a run that has finished a phase; a "
            "checkpoint within a phase can be given as a file"
        )
    if metric is None:
        return found[-1]
    first: dict[int, Found] = {}  # a later one may have what a phase of the other role made of a shared policy
    for each in found:
        if each.iteration is not None:
            first.setdefault(each.iteration, each)
    best = best_of({iteration: score_of(each.scores, metric) for iteration, each in first.items()}, not lowest)
    if best is None:
        raise ValueError(
            f"metric: {metric!r} was measured in no iteration of {str(source)!r} that has a checkpoint; "
            "it is val/<benchmark>/<metric>"
        )
    return first[best]


def _look(path: Path, role: str) -> Found:
    callbacks = read_checkpoint(str(path)).get("callbacks", {})
    state = callbacks.get(SelfPlay.__qualname__)
    if state is None:
        return Found(path, None, {})
    coming = state["phase"]  # the phase that is next
    within = coming["role"] == "reasoner" and role == "questioner"
    iteration = coming["iteration"] - (0 if within else 1)
    return Found(path, iteration or None, read_scores(_run_of(path), iteration))


def _run_of(checkpoint: Path) -> Path:
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def _config_of(checkpoint: Path) -> str:
    path = _run_of(checkpoint) / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"config: give the run's --config; there is no {str(path)!r}")
    return str(path)


def read_role(config: Any, name: str) -> TrainedRole:
    """A role of the configured module, whose weights are not loaded.

    Raises:
        ValueError: The module does not have it.
    """
    module = build(GRPOModule, config.model)  # type: ignore[type-abstract]
    if name not in module.roles:
        raise ValueError(f"role: the configuration has {' and '.join(module.roles)}, got {name!r}")
    return module.roles[name]


def describe_config(config: Any) -> dict[str, str]:
    """What the configuration reads, without paths of this machine."""
    settings: Any = OmegaConf.to_container(config.get("data") or OmegaConf.create(), resolve=True)
    module, given = str(settings.get("class_path", "")).rpartition(".")[2], settings.get("init_args") or {}
    sources = {argument: given.get(argument) for argument in SOURCES}
    paths = {name: source.get("path") if isinstance(source, dict) else source for name, source in sources.items()}
    return ({"module": module} if module else {}) | name_sources(paths)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="visplay export", description=__doc__)
    parser.add_argument(
        "source",
        type=os.path.expanduser,
        help="a checkpoint (.ckpt), or the directory of a run such as runs/tiny/version_0",
    )
    parser.add_argument("--role", default="reasoner", help="whose policy")
    parser.add_argument(
        "--config",
        action="append",
        help="of the run, a later one overrides; by default the config.yaml in its directory",
    )
    parser.add_argument(
        "--output",
        type=os.path.expanduser,
        required=True,
        metavar="DIR",
        help="the directory to write; must not be there",
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="bfloat16", help="of the weights"
    )
    parser.add_argument("--adapter-only", action="store_true", help="the LoRA adapter alone, as peft writes it")
    parser.add_argument("--metric", help="of a run, the iteration where this is best: val/heldout/rule_accuracy")
    parser.add_argument("--lowest", action="store_true", help="the lowest value of the metric is the best")
    parser.add_argument("--push-to-hub", metavar="OWNER/NAME", help="upload it too, to a private repository")
    parser.add_argument("--public", action="store_true", help="a repository that is made for it is public")
    return parser.parse_args(arguments)
