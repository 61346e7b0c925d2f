"""From a run's configuration, instantiated but not loaded, to what a plan is made from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from jsonargparse.util import import_object
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

from visplay.callbacks import Health, StepCheckpoint, TransformersRollout, VLLMRollout
from visplay.callbacks.engines.engine import RolloutEngine, compute_dtype
from visplay.callbacks.self_play import SelfPlay
from visplay.callbacks.teacher import Teacher
from visplay.modules import Describer, Questioner, Reasoner, Role, VisPlay
from visplay.modules.policy.attention import GROUPED_SDPA, many_token_dtype
from visplay.modules.policy.vlm import VLM
from visplay.modules.policy.weights.tuning import LoRA, Tuning
from visplay.modules.training import GRPOModule
from visplay.planning.activations import Precision
from visplay.planning.memory import Shape
from visplay.planning.settings import NO_IMAGES, Device, ImageSize, RolePlan, Settings, TransformersPlan, VLLMPlan
from visplay.planning.shapes import build_empty, measure_shape, read_config, sides

LORA_OVERLAY = Tuning(("vision_tower", "projector"), LoRA())
"""What ``configs/lora.yaml`` says."""
_CUDA_CONTEXT = int(0.6 * 2**30)
"""Bytes that a process takes of a GPU before its first tensor; an estimate, of context and libraries together."""
_CHARACTERS_PER_TOKEN = 4.0
"""Of English text, about, where no tokenizer is at hand."""
_QUESTION_TOKENS = 256
"""Of a question with its options, which is far shorter than what the Questioner may write."""


def read_settings(model: GRPOModule, callbacks: Iterable[Any], trainer: Any, device: Device) -> Settings:
    """Take the settings of a run; of the model only its configuration and, where it is at hand, its processor are read.

    Args:
        model: Whom it trains.
        callbacks: The engine, self-play, and whatever writes checkpoints.
        trainer: Its settings, as ``devices`` and ``precision``.
        device: What it is meant for.

    Raises:
        FileNotFoundError: The model has no configuration.
        ValueError: A setting contradicts the checkpoint.
    """
    given = list(callbacks)
    roles, judge = _roles(model)
    vlm, precision = roles[0].vlm, compute_dtype(str(trainer.precision))
    config = read_config(vlm)
    empty = build_empty(vlm, config)
    shape, ready = measure_shape(empty), _with_processor(empty)
    most = config.get_text_config().max_position_embeddings
    padded = _why_padded(empty)
    if padded is not None and vlm.gradient_checkpointing:
        raise ValueError(f"gradient_checkpointing: true needs groups packed into one row, and {padded}; give false")
    play = next(each for each in given if isinstance(each, SelfPlay))
    return Settings(
        path=vlm.path,
        shape=shape,
        image=_image(empty, config) if ready else _image_of(vlm, config, shape),
        context_tokens=empty.context_tokens if ready else min(most, vlm.max_context_tokens or most),
        roles=tuple(_role(role, empty if ready else None) for role in roles),
        policies=2 if judge is not None and judge.vlm is not vlm else 1,
        precision=Precision(precision.itemsize, many_token_dtype(torch.device(device.kind), precision).itemsize),
        checkpointed=vlm.gradient_checkpointing,
        frozen=frozenset(vlm.tuning.freeze),
        engine=_engine(next(each for each in given if isinstance(each, RolloutEngine)), precision),
        voting=None if judge is None else judge.voting,
        curation=play.curation if isinstance(model, VisPlay) else None,
        iterations=play.iterations,
        kept_checkpoints=_kept([each for each in given if isinstance(each, ModelCheckpoint)], trainer),
        device=_with_count(device, trainer),
        own_judge=not isinstance(model, VisPlay),
        offload=play.offload,
        why_padded=padded,
        step_checkpoints=sum(each.keep for each in given if isinstance(each, StepCheckpoint)),
        health_copies=sum(_copies(each) for each in given if isinstance(each, Health)),
        teacher=any(isinstance(each, Teacher) for each in given),
        with_adapters=None if vlm.tuning.lora else measure_shape(empty, LORA_OVERLAY),
    )


def present_device(accelerator: str, process: int, directory: Path) -> Device:
    """The device that this machine would train on.

    Args:
        accelerator: The trainer's.
        process: Resident bytes of this process.
        directory: Where the run is written.
    """
    while not directory.exists():
        directory = directory.parent
    disk = shutil.disk_usage(directory).free
    if accelerator != "cpu" and torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory
        return Device("cuda", memory, _CUDA_CONTEXT, disk=disk, host=host_memory() - process)
    return Device("cpu", host_memory(), process, disk=disk)


def given_device(
    accelerator: str, gib: float, process: int, disk_gib: float | None, host_gib: float | None = None
) -> Device:
    """A device that is described instead: a GPU, unless the trainer is told to use the CPU."""
    disk, host = (None if size is None else int(size * 2**30) for size in (disk_gib, host_gib))
    kind = "cpu" if accelerator == "cpu" else "cuda"
    return Device(kind, int(gib * 2**30), process if kind == "cpu" else _CUDA_CONTEXT, disk=disk, host=host)


def host_memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _roles(model: GRPOModule) -> tuple[list[Role], Reasoner | None]:
    """Those that learn, in their turns, and who votes."""
    if isinstance(model, VisPlay):
        return [model.questioner, model.reasoner], model.reasoner
    if isinstance(model, Questioner):
        return [model], model.reasoner
    assert isinstance(model, Role), "a module is a role, or has two"
    return [model], None


def _with_processor(empty: VLM) -> bool:
    """Give the empty model its processor, if there is one."""
    try:
        empty.processor = empty.read_processor(empty.path)
    except FileNotFoundError:
        return False
    empty.limit_pixels(empty.min_pixels, empty.max_pixels)
    return True


def _why_padded(empty: VLM) -> str | None:
    """Why groups would not be packed into one row, as far as the model decides; None where they would."""
    if empty.attn_implementation not in (None, GROUPED_SDPA):
        return f"attn_implementation is {empty.attn_implementation!r}, not {GROUPED_SDPA!r}"
    return empty.why_never_packed()


def _image(empty: VLM, config: Any) -> ImageSize:
    """Areas of images by the processor, or tokens and patches of a family that cuts them into tiles."""
    most, vision = empty.most_image_tokens, getattr(config, "vision_config", None)
    if vision is None:
        return NO_IMAGES
    processor = empty.processor.image_processor
    size = dict(processor.size)
    if hasattr(vision, "spatial_merge_size"):
        token = (processor.patch_size * processor.merge_size) ** 2
        return ImageSize(size["shortest_edge"], size["longest_edge"], token)
    if hasattr(processor, "max_patches"):
        tiles = processor.max_patches + (processor.max_patches > 1)
    else:
        side = vision.image_size
        longest = size.get("longest_edge", side)
        canvases = getattr(processor, "image_grid_pinpoints", [(longest, longest)] if longest > side else [])
        tiles = 1 + max((-(-height // side) * -(-width // side) for height, width in canvases), default=0)
    patches = prod(
        side // patch for side, patch in zip(sides(vision.image_size), sides(vision.patch_size), strict=True)
    )
    return ImageSize(1, most, 1, tiled=(most, tiles * patches))


def _image_of(vlm: VLM, config: Any, shape: Shape) -> ImageSize:
    """Areas of images without a processor: those that are set.

    Raises:
        ValueError: None are, or they do not say how many tokens an image becomes.
    """
    if not hasattr(config, "vision_config"):
        return NO_IMAGES
    if vlm.max_pixels is None:
        raise ValueError(f"max_pixels: null is the processor's, and {vlm.path!r} has none at hand; give a number")
    if not hasattr(config.vision_config, "spatial_merge_size"):
        raise ValueError(f"path: {vlm.path!r} has no processor at hand, which alone knows the tiles of an image")
    token = prod(sides(config.vision_config.patch_size)) * shape.patches_per_token
    return ImageSize(vlm.min_pixels or token, vlm.max_pixels, token)


def _role(role: Role, ready: VLM | None) -> RolePlan:
    """A role with its prompt counted, exactly where there is a tokenizer."""
    template = role.template
    if ready is None:
        tokens = int(len(template.user + (template.system or "")) / _CHARACTERS_PER_TOKEN) + 16
    else:
        fields = dict.fromkeys(template.fields(), "")
        tokens = len(ready.encode("plan", template, None, **fields).token_ids) + 2  # around the image
    question = _QUESTION_TOKENS if role.name == "reasoner" else 0
    return RolePlan(role.name, role.config, tokens, question, isinstance(role, Describer))


def _engine(engine: RolloutEngine, precision: torch.dtype) -> VLLMPlan | TransformersPlan | None:
    if isinstance(engine, VLLMRollout):
        dtype = precision if engine.engine.dtype == "auto" else getattr(torch, engine.engine.dtype)
        return VLLMPlan(engine.engine, dtype.itemsize, engine.sleep_in_update)
    return TransformersPlan(engine.max_sequences) if isinstance(engine, TransformersRollout) else None


def _kept(writers: list[ModelCheckpoint], trainer: Any) -> int | None:
    """Checkpoints that stay; None for all. Lightning keeps the last one where nothing else is configured."""
    if not writers:
        return 0 if trainer.enable_checkpointing is False else 1
    numbers = [writer.save_top_k + bool(writer.save_last) for writer in writers]
    return None if any(writer.save_top_k == -1 for writer in writers) else sum(numbers)


def _copies(health: Health) -> int:
    """Copies that it has at once: of the last good policy, and of the one before a step where a step's rule ends it."""
    if any(rule.action == "end_phase" for rule in health.rules.values()):
        return 2
    return int(health.probe is not None and health.probe.action == "end_phase")


def _with_count(device: Device, trainer: Any) -> Device:
    """The device as one of several, over which some strategies cut weights."""
    devices, nodes, strategy = trainer.devices, trainer.num_nodes, trainer.strategy
    on_one = len(devices) if isinstance(devices, list) else int(devices) if str(devices).isdecimal() else 1
    count = on_one * nodes
    if isinstance(strategy, str):
        cuts = "fsdp" in strategy
    else:
        named = getattr(strategy, "class_path", None)
        cuts = issubclass(import_object(named) if named else type(strategy), FSDPStrategy | ModelParallelStrategy)
    return replace(device, count=count, nodes=nodes, sharded=count > 1 and cuts)
