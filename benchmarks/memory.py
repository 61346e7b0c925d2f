"""The plan's peak of memory against a measured one: a whole step of GRPO, in a fresh process.

``python -m benchmarks.memory`` builds models with the widths of Qwen2.5-VL, few layers and random weights, and takes
one step of the learner: a frozen reference, scores of reference and policy, and several updates of several
micro-batches each, so that gradients and optimizer states are there while activations are. The peak is the process's
own ``VmHWM``; the plan's process part is what it needed before the model was made. On CUDA the peak is the allocator's
own, of tensors. Of several ranks it is the highest. Models that no machine at hand has room for are measured by parts:
a smaller vocabulary, or gradients and optimizer states of a part left away. What is named "all layers" is measured
only when ``--form`` asks for it.

Figures: ``rows``, for each measured form ``planned_mib``, ``measured_mib``, ``ratio`` and ``seconds``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh

from benchmarks.measure import forget_peak, memory_mib, peak_mib, run_apart
from benchmarks.models import SHAPES, RandomPolicy, Shape
from benchmarks.results import RESULTS, load, make_parser, parse, publish
from benchmarks.workload import DTYPES, Size, autocast, make_prompts, make_rollout
from visplay.clock import Clock
from visplay.modules import GRPOConfig
from visplay.modules.learner.group_batch import GroupBatch
from visplay.modules.learner.grpo import GRPO
from visplay.modules.learner.mismatch import MismatchConfig
from visplay.modules.policy.attention import GROUPED_SDPA, many_token_dtype
from visplay.modules.policy.weights.tuning import LoRA, Tuning
from visplay.planning.activations import Precision
from visplay.planning.memory import Micro, Residents, Training, update_bytes
from visplay.planning.shapes import build_empty, measure_shape, read_config
from visplay.ranks import gather, rank
from visplay.types import Judgement, Rollout

PIXELS = {"min_pixels": 262144, "max_pixels": 4194304}
"""Of the shipped configurations."""


@dataclass(frozen=True)
class Form:
    """A step that is measured.

    Args:
        model: One of ``SHAPES``, whose widths it has.
        size: N prompts, in two updates, with an image each of the least area.
        text_layers: Of the language model; None is the model's.
        vision_layers: Of the vision tower, likewise.
        vocabulary: Tokens; None is the model's.
        tuning: What learns.
        reference: Whether a frozen reference scores.
        checkpointed: Gradient checkpointing.
        dtype: To compute in.
        ranks: Processes, over which the weights are sharded where there are several (FSDP2).
    """

    model: str
    size: Size = Size(prompts=4, group=4, tokens=32, side=512)
    text_layers: int | None = 2
    vision_layers: int | None = 2
    vocabulary: int | None = None
    tuning: Tuning = Tuning()
    reference: bool = True
    checkpointed: bool = False
    dtype: str = "float32"
    ranks: int = 1


SHORT = Size(prompts=4, group=2, tokens=16, side=512)
TWICE = Size(prompts=8, group=2, tokens=16, side=512)
ADAPTERS = Tuning(("vision_tower", "projector"), LoRA())
FORMS = {
    "3b": Form("3b"),
    "3b, short, without reference": Form("3b", SHORT, reference=False),
    "3b, vocabulary of 8192, short, without reference": Form("3b", SHORT, vocabulary=8192, reference=False),
    "3b, checkpointed": Form("3b", checkpointed=True),
    "3b, image of 1 megapixel, 6 vision layers": Form(
        "3b", Size(prompts=2, group=2, tokens=16, side=1024), vision_layers=6, reference=False
    ),
    "3b, bfloat16": Form("3b", SHORT, reference=False, dtype="bfloat16"),
    "3b, LoRA, long groups": Form(
        "3b", Size(prompts=2, group=8, tokens=128, side=512), tuning=ADAPTERS, reference=False
    ),
    "3b, LoRA, bfloat16, checkpointed, all layers": Form(
        "3b", text_layers=36, vision_layers=32, tuning=ADAPTERS, checkpointed=True, dtype="bfloat16"
    ),
    "7b, vocabulary of 8192": Form("7b", SHORT, vocabulary=8192),
    "7b, language model frozen": Form("7b", SHORT, tuning=Tuning(("language_model",)), reference=False),
    "3b, sharded over 2": Form("3b", TWICE, reference=False, ranks=2),
    "3b, vocabulary of 8192, sharded over 2, checkpointed": Form(
        "3b", TWICE, vocabulary=8192, checkpointed=True, ranks=2
    ),
}


class MadeUp:
    """A role that made its rollout up; the learner's step asks it for nothing else."""

    engine: Any

    def __init__(self, policy: RandomPolicy, size: Size) -> None:
        self.vlm, self.engine, self.size = policy, self, size
        self.draw = torch.Generator().manual_seed(0)

    def rollout(self, items: Any, n: int, seed: int) -> Rollout:
        """Completions of random words."""
        return make_rollout(self.vlm, self.size, self.draw)

    def judge(self, items: Any, rollout: Rollout, seed: int) -> Judgement:
        """Random rewards."""
        return Judgement(torch.rand(self.size.prompts, self.size.group, generator=self.draw), {}, ())

    def collate(self, rollout: Rollout) -> GroupBatch:
        """The rollout as tensors."""
        return GroupBatch.collate(rollout, list(map(self.vlm.prompt_tokens, rollout.prompts)), self.vlm.device)

    def sleep(self) -> None:
        """There is no engine to put to sleep."""


def measure_alone(form: Form, device: str) -> dict[str, float]:
    """Plan a step and take it, in this process, which may be one of several ranks; see the module."""
    mesh = init_device_mesh(device, (form.ranks,)) if form.ranks > 1 else None
    before = 0.0 if device == "cuda" else memory_mib("cpu")  # what CUDA's own context takes is not seen
    with tempfile.TemporaryDirectory() as directory:
        policy = _make_policy(form, Path(directory), device)
        if mesh is not None:
            policy.shard(mesh)
        forget_peak(device)  # an untied head is drawn before it is tied
        planned = _plan(form, policy, int(before * 2**20), device)
        start = time.perf_counter()
        take_step(form, policy)
    measured = max(gather(peak_mib(device)))
    seconds = time.perf_counter() - start
    weights = sum(weight.numel() for weight in policy.parameters())
    figures = {"weights": weights, "process_mib": before, "planned_mib": planned, "measured_mib": measured}
    return figures | {"ratio": measured / planned, "seconds": seconds}


def take_step(form: Form, policy: RandomPolicy) -> None:
    """One whole step of the learner, a phase's beginning included."""
    size = form.size
    longest = max(map(policy.prompt_tokens, make_prompts(policy, size))) + size.group * size.tokens
    config = GRPOConfig(
        prompts_per_step=size.prompts,
        prompts_per_update=size.prompts // 2,
        group_size=size.group,
        kl_weight=0.01 if form.reference else 0.0,
        tokens_per_micro_batch=longest,  # a micro-batch is one group
        mismatch=MismatchConfig(stop=False),
    )
    learner, role = GRPO(config, Clock()), MadeUp(policy, size)
    optimizer = torch.optim.AdamW(policy.trained_weights(), lr=1e-6, fused=True)
    with autocast(policy, DTYPES[form.dtype]):
        learner.begin_phase(policy, optimizer)
        learner.step(role, range(size.prompts), optimizer, lambda loss: loss.backward(), seed=0)


def plan_form(name: str, process: int, directory: Path) -> float:
    """MiB that the plan says of a form, without any memory taken.

    Args:
        name: One of ``FORMS``.
        process: Bytes of the process without the model.
        directory: Where the model's configuration and processor are written.
    """
    return _plan(FORMS[name], _make_policy(FORMS[name], directory, "meta"), process, "cpu")


def _plan(form: Form, policy: RandomPolicy, process: int, device: str) -> float:
    size = form.size
    (prompt,) = make_prompts(policy, Size(1, size.group, size.tokens, size.side))
    micro = Micro(
        tokens=policy.prompt_tokens(prompt) + size.group * (size.tokens - 1),
        scored=size.group * size.tokens,
        patches=4 * policy.image_tokens(prompt.images[0]),
    )
    dtype = DTYPES[form.dtype]
    precision = Precision(dtype.itemsize, many_token_dtype(torch.device(device), dtype).itemsize)
    several = size.prompts > 2  # in two updates, a micro-batch a prompt
    training = Training(precision, form.checkpointed, several, frozen=frozenset(form.tuning.freeze))
    shape = measure_shape(build_empty(policy, read_config(policy)))
    reference = (shape.adapter_weights or shape.weights) if form.reference else 0
    residents = Residents(process, reference=reference, shards=form.ranks)
    return sum(update_bytes(shape, training, residents, (micro,)).values()) / 2**20


def _make_policy(form: Form, directory: Path, device: str) -> RandomPolicy:
    known = SHAPES[form.model]
    text, vision, depth = dict(known.text), dict(known.vision), form.vision_layers
    text |= {"num_hidden_layers": form.text_layers} if form.text_layers else {}
    text |= {"vocab_size": form.vocabulary} if form.vocabulary else {}
    if depth:
        full = [i for i in known.vision["fullatt_block_indexes"] if i < depth] or [depth - 1]
        vision |= {"depth": depth, "fullatt_block_indexes": full}
    settings = {"gradient_checkpointing": form.checkpointed, "tuning": form.tuning, "max_context_tokens": 10240}
    settings |= {"attn_implementation": GROUPED_SDPA} | (PIXELS if "patch_size" in vision else {})  # not of small ones
    return RandomPolicy(Shape(form.size.side, text, vision), directory, device, torch.float32, **settings)


def main() -> None:
    """Measure, print, and record where it is asked for."""
    parser = make_parser(__doc__)
    parser.set_defaults(rounds=1)
    parser.add_argument("--form", action="append", choices=FORMS, help="may be repeated; all; others stay")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--alone", metavar="FORM", help=argparse.SUPPRESS)
    options = parse(parser, least_rounds=1)
    if options.alone:
        figures = measure_alone(FORMS[options.alone], options.device)
        if rank() == 0:
            sys.stdout.write(json.dumps(figures) + "\n")
        return
    rows = load(options.write or RESULTS)["sections"].get("memory", {}).get("figures", {}).get("rows", {})
    for form in options.form or [form for form in FORMS if "all layers" not in form]:
        rows[form] = run_apart("memory", form, f"--device={options.device}", ranks=FORMS[form].ranks)
    rows = {form: rows[form] for form in FORMS if form in rows}
    worst = max(abs(row["ratio"] - 1) for row in rows.values())
    publish("memory", {"rows": rows}, {"plan_memory_error": worst}, options)


if __name__ == "__main__":
    main()
