"""Tables of ``docs/scaling.md``: what a run takes on 1 to 64 GPUs, and what 10⁵ to 10⁸ images do: computed, by formula.

``python -m benchmarks.scaling`` plans the configurations of 3B and 7B as ``visplay plan --gpus`` does, on H100s of
80 GB by their data sheet, for the mean lengths of ``IMAGE_TOKENS`` and ``COMPLETION_TOKENS``. Prompts are counted with
the embedded tokenizer. Nothing is measured here but ``DECODE_SECONDS`` and the bytes that are said to be.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.models import save_empty
from benchmarks.plans import ROOT
from benchmarks.tables import table, written
from visplay.cli import instantiate
from visplay.planning.amounts import host_bytes
from visplay.planning.costs.cost_tables import duration, total
from visplay.planning.costs.machines import MACHINES
from visplay.planning.costs.step_costs import Lengths, StepCosts
from visplay.planning.reading import given_device, read_settings
from visplay.planning.run_plan import gib, make_plan
from visplay.planning.settings import Settings

PAGE = ROOT / "docs/scaling.md"
MODELS = {"3B": ("qwen2_5_vl_3b", "3b"), "7B": ("qwen2_5_vl_7b", "7b")}
MACHINE = MACHINES["h100"]
CLUSTERS = {1: 1, 8: 1, 64: 8}
"""GPUs, and the machines that they are in."""
IMAGES = (10**5, 10**6, 10**7, 10**8)
IMAGE_TOKENS, COMPLETION_TOKENS = 1024, 512
"""Assumed means: an image of 1024 x 784 pixels, and half a thousand tokens to ask or to answer."""

JPEG_BYTES = 260_000
"""Of such an image; measured of one with smooth content."""
PNG_BYTES = 1_400_000
"""Of the same, as a generated data set stores it."""
DECODE_SECONDS = 4.5e-3
"""CPU seconds to decode it, measured on a Xeon of 2.5 GHz; a stream has four threads for it."""
DECODERS = 4
FOLDER_INDEX_BYTES, STREAM_INDEX_BYTES = 59, 28 / 128
"""Of an image in the index of a directory (path, size and time of change), and of a stream (a part has 128 images)."""
SHARD_BYTES, ASKED_BYTES = 370, 1_130
"""Of a question with its vote, on the disk and in memory; measured of a typical one."""


def read_all() -> dict[str, Settings]:
    """The settings of each model, on one device."""
    found = {}
    with tempfile.TemporaryDirectory() as directory:
        for name, (config, shape) in MODELS.items():
            save_empty(shape, Path(directory, shape))
            path = f"--model.init_args.vlm.init_args.path={directory}/{shape}"
            built = instantiate([f"--config={ROOT / 'configs' / config}.yaml", path])
            device = given_device("gpu", MACHINE.memory_gib, 0, None)
            found[name] = read_settings(built.model, built.callbacks, built.trainer, device)
    return found


def on(settings: Settings, gpus: int, sharded: bool, images_per_batch: int | None = None) -> StepCosts:
    """The costs of a run on so many GPUs."""
    device = replace(settings.device, count=gpus, nodes=CLUSTERS[gpus], sharded=sharded)
    curation = settings.curation
    if images_per_batch is not None and curation is not None:
        curation = replace(curation, images_per_batch=images_per_batch)
    completions = dict.fromkeys(("questioner", "reasoner"), COMPLETION_TOKENS)
    plan = make_plan(replace(settings, device=device, curation=curation))
    return StepCosts(plan, MACHINE, Lengths(IMAGE_TOKENS, completions))


def steps_table(settings: Settings) -> str:
    """A line for each number of GPUs and strategy."""
    lines = []
    for gpus in CLUSTERS:
        for sharded in (False, True) if gpus > 1 else (False,):
            lines.append(_steps_line(on(settings, gpus, sharded), sharded))
    columns = [
        "GPUs",
        "memory of a GPU",
        "CPU memory of a machine",
        "Questioner's step: rollout",
        "votes",
        "load",
        "update",
    ]
    columns += ["Reasoner's step: rollout", "load", "update", "sent by a rank", "an iteration"]
    return table(columns, lines)


def _steps_line(costs: StepCosts, sharded: bool) -> list[str]:
    plan, device = costs.plan, costs.plan.settings.device
    questioner, reasoner = plan.settings.roles
    asks, answers = costs.step(questioner), costs.step(reasoner)
    peak = max(plan.peak(stage) for stage in plan.stages)
    whole = total(asks).times(questioner.grpo.steps) + total(answers).times(reasoner.grpo.steps)
    whole += total(costs.curation(plan.settings.curation.images if plan.settings.curation else 0))
    strategy = f", {'FSDP2' if sharded else 'DDP'}" if device.count > 1 else ""
    return [
        f"{device.count}{strategy}",
        gib(peak) if peak <= device.memory else f"**no**: {gib(peak)}",
        gib(sum(host_bytes(plan.settings).values()) * device.count // device.nodes),
        *(duration(stage.seconds) for stage in asks.values()),
        *(duration(stage.seconds) for stage in answers.values()),
        gib(total(answers).network_bytes),
        duration(whole.seconds),
    ]


def bytes_table() -> str:
    """What so many images take on the disk and in memory, if every one has a question that is kept."""
    per_image = {
        "images, as JPEG": JPEG_BYTES,
        "index of a directory": FOLDER_INDEX_BYTES,
        "index of a stream": STREAM_INDEX_BYTES,
        "questions and votes on the disk": 8 * SHARD_BYTES,
        "questions and votes in memory, each rank": 8 * ASKED_BYTES,
        "generated data set": PNG_BYTES,
    }
    lines = [[_power(n), *(_size(n * each) for each in per_image.values())] for n in IMAGES]
    return table(["images", *per_image], lines)


def hours_table(every: dict[str, Settings]) -> str:
    """How long it takes to ask about so many images and to vote, and what takes longest."""
    lines = []
    for name, settings in every.items():
        for gpus in CLUSTERS:
            for per_batch in dict.fromkeys((64, 64 * gpus)):
                costs = on(settings, gpus, sharded=gpus > 1 and name == "7B", images_per_batch=per_batch)
                lines.append([f"{name}, {gpus}, {per_batch:,}", *_hours(costs)])
    return table(["model, GPUs, `images_per_batch`", *map(_power, IMAGES), "of it", "decoding alone"], lines)


def _hours(costs: StepCosts) -> Iterator[str]:
    """Times of all numbers of images, and the stages' fractions; all are proportional to the images."""
    stages = costs.curation(IMAGES[0])
    whole = total(stages)
    for images in IMAGES:
        yield duration(whole.times(images / IMAGES[0]).seconds)
    yield ", ".join(f"{name} {stage.seconds / whole.seconds:.0%}" for name, stage in stages.items())
    yield f"{IMAGES[0] * DECODE_SECONDS / DECODERS / whole.seconds:.1%}"


def _size(number: float) -> str:
    unit, factor = next(
        ((u, f) for u, f in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)) if number >= f), ("KiB", 2**10)
    )
    return f"{number / factor:,.3g} {unit}"


def _power(images: int) -> str:
    return f"10{str(len(str(images)) - 1).translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def write_page(page: str) -> str:
    """The page with its tables as they are now."""
    every = read_all()
    tables = {f"steps_{name}": steps_table(settings) for name, settings in every.items()}
    return written(page, **tables, bytes=bytes_table(), hours=hours_table(every))


if __name__ == "__main__":
    PAGE.write_text(write_page(PAGE.read_text()))
