"""The plan's peak of memory against a measured one: a whole step of GRPO on a CPU, in a fresh process.

``python -m benchmarks.memory --model 3b`` builds a model with the widths of Qwen2.5-VL-3B, two layers of the language
model and two of the vision tower, random weights, and takes one step of the learner: a frozen reference, scores of
reference and policy, and several updates of several micro-batches each, so that gradients and optimizer states are
there while activations are. Images have the least area of the shipped configurations, 262144 pixels. The peak is the
process's own ``VmHWM``; the plan's process part is what it held before the model was made.

Models that no machine at hand holds are measured by parts: ``--vocabulary`` cuts the vocabulary, ``--freeze`` leaves
gradients and optimizer states of a part away. With ``--alone --device=cuda`` and all layers it is the whole model's
step on a GPU, by the allocator's own peak of tensors.

Figures: ``rows``, for each measured form ``planned_mib``, ``measured_mib``, ``ratio`` and ``seconds``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.head import forget_peak, memory_mib, peak_mib
from benchmarks.models import SHAPES, RandomPolicy, Shape
from benchmarks.results import command, load, make_parser, parse, record
from benchmarks.updates import DTYPES, Size, autocast, make_prompts
from visplay.clock import Clock
from visplay.modules import GRPOConfig
from visplay.modules.learner.group_batch import GroupBatch
from visplay.modules.learner.grpo import GRPO
from visplay.modules.learner.mismatch import MismatchConfig
from visplay.modules.policy.attention import GROUPED_SDPA
from visplay.modules.policy.packed_attention import many_token_dtype
from visplay.modules.policy.tuning import LoRA, Tuning
from visplay.modules.role import Judgement
from visplay.planning.activations import Precision
from visplay.planning.memory import Micro, Training
from visplay.planning.shapes import build_empty, measure_shape
from visplay.planning.stages import Residents, update
from visplay.types import Completion, Rollout

MIN_PIXELS, MAX_PIXELS = 262144, 4194304
SHORT = ["--group=2", "--tokens=16"]
FORMS = {
    "3b": ["--model=3b"],
    "3b, short, without reference": ["--model=3b", "--no-reference", *SHORT],
    "3b, checkpointed": ["--model=3b", "--checkpointed"],
    "3b, image of 1 megapixel, 6 vision layers": [
        *("--model=3b", "--vision-layers=6", "--side=1024", "--prompts=2", "--no-reference", *SHORT),
    ],
    "3b, bfloat16": ["--model=3b", "--dtype=bfloat16", "--no-reference", *SHORT],
    "3b, LoRA, long groups": [
        *("--model=3b", "--lora", "--freeze", "vision_tower", "projector", "--prompts=2", "--no-reference"),
        *("--group=8", "--tokens=128"),
    ],
    "7b, vocabulary of 8192": ["--model=7b", "--vocabulary=8192", *SHORT],
    "7b, language model frozen": ["--model=7b", "--freeze=language_model", "--no-reference", *SHORT],
}


class _MadeUp:
    """A role that made its rollout up; the learner's step asks it for nothing else."""

    def __init__(self, policy: RandomPolicy, size: Size) -> None:
        self.vlm, self.engine, self.size = policy, self, size
        self.draw = torch.Generator().manual_seed(0)

    def rollout(self, items: Any, n: int, seed: int) -> Rollout:
        shape = (self.size.prompts, n, self.size.tokens)
        ids = torch.randint(1, 400, shape, generator=self.draw).tolist()  # below all control tokens
        logps = (-1.0,) * self.size.tokens
        groups = tuple(tuple(Completion(tuple(row), logps, "", True) for row in group) for group in ids)
        return Rollout(tuple(make_prompts(self.vlm, self.size)), groups)

    def judge(self, items: Any, rollout: Rollout, seed: int) -> Judgement:
        return Judgement(torch.rand(self.size.prompts, self.size.group, generator=self.draw), {}, ())

    def collate(self, rollout: Rollout) -> GroupBatch:
        return GroupBatch.collate(
            rollout, [self.vlm.prompt_tokens(prompt) for prompt in rollout.prompts], self.vlm.device
        )

    def sleep(self) -> None:
        return


def measure_alone(options: argparse.Namespace) -> dict[str, float]:
    """Plan a step and take it, in this process; see the module."""
    before = 0.0 if options.device == "cuda" else memory_mib("cpu")  # what CUDA's own context takes is not seen
    with tempfile.TemporaryDirectory() as directory:
        policy = _make_policy(options, Path(directory), options.device)
        forget_peak(options.device)  # an untied head is drawn before it is tied
        role = _MadeUp(policy, Size(options.prompts, options.group, options.tokens, options.side))
        planned = sum(plan_step(policy, role.size, options, int(before * 2**20)).values()) / 2**20
        start = time.perf_counter()
        take_step(role, options)
    measured = peak_mib(options.device)
    seconds = time.perf_counter() - start
    weights = sum(weight.numel() for weight in policy.parameters())
    figures = {"weights": weights, "process_mib": before, "planned_mib": planned, "measured_mib": measured}
    return figures | {"ratio": measured / planned, "seconds": seconds}


def take_step(role: Any, options: argparse.Namespace) -> None:
    """One whole step of the learner, a phase's beginning included."""
    longest = max(map(role.vlm.prompt_tokens, make_prompts(role.vlm, role.size))) + options.group * options.tokens
    config = GRPOConfig(
        prompts_per_step=options.prompts,
        prompts_per_update=options.prompts // 2,
        group_size=options.group,
        kl_weight=0.01 if options.reference else 0.0,
        tokens_per_micro_batch=longest,  # a micro-batch is one group
        mismatch=MismatchConfig(stop=False),
    )
    learner, policy = GRPO(config, Clock()), role.vlm
    optimizer = torch.optim.AdamW(policy.trained_weights(), lr=1e-6, fused=True)
    with autocast(policy, DTYPES[options.dtype]):
        learner.begin_phase(policy, optimizer)
        learner.step(role, range(options.prompts), optimizer, lambda loss: loss.backward(), seed=0)


def plan_step(policy: RandomPolicy, size: Size, options: argparse.Namespace, process: int) -> dict[str, int]:
    """What the plan says of that step, in bytes; ``process`` is what the process holds without the model."""
    (prompt, *_) = make_prompts(policy, Size(1, size.group, size.tokens, size.side))
    tokens = policy.prompt_tokens(prompt)
    micro = Micro(
        tokens=tokens + size.group * (size.tokens - 1),
        rows=size.group * size.tokens,
        patches=4 * policy.image_tokens(prompt.images[0]),
    )
    several = options.prompts > 2  # in two updates, a micro-batch a prompt
    dtype = DTYPES[options.dtype]
    precision = Precision(dtype.itemsize, many_token_dtype(torch.device(options.device), dtype).itemsize)
    training = Training(precision, options.checkpointed, accumulated=several, frozen=frozenset(options.freeze))
    shape = measure_shape(build_empty(policy, policy.model.config))
    reference = (shape.adapter_weights or shape.weights) if options.reference else 0
    return update(shape, training, Residents(process=process, reference=reference), (micro,))


def measure(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """All forms asked for, each in a process of its own."""
    return {form: measure_apart(FORMS[form]) for form in options.form or FORMS}


def plan_form(form: str, process: int, directory: Path) -> float:
    """MiB that the plan says of a form, without any memory taken.

    Args:
        form: One of ``FORMS``.
        process: Bytes of the process without the model.
        directory: Where the model's configuration and processor are written.
    """
    options = _make_parser().parse_args(FORMS[form])
    policy = _make_policy(options, directory, "meta")
    size = Size(options.prompts, options.group, options.tokens, options.side)
    return sum(plan_step(policy, size, options, process).values()) / 2**20


def measure_apart(words: list[str]) -> dict[str, float]:
    """The figures of one form, measured in a fresh process.

    Raises:
        RuntimeError: It ended early.
    """
    line = [sys.executable, "-m", "benchmarks.memory", "--alone", *words]
    done = subprocess.run(line, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise RuntimeError(f"{words} ended with {done.returncode} (out of memory?): {done.stderr[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure, print, and record where it is asked for."""
    options = parse(_make_parser(), least_rounds=1)
    if options.alone:
        sys.stdout.write(json.dumps(measure_alone(options)) + "\n")
        return
    rows = measure(options)
    table = Table("form", "weights", "planned MiB", "measured MiB", "measured / planned", "seconds")
    for form, row in rows.items():
        numbers = f"{row['weights']:,.0f}", f"{row['planned_mib']:,.0f}", f"{row['measured_mib']:,.0f}"
        table.add_row(form, *numbers, f"{row['ratio']:.3f}", f"{row['seconds']:.0f}")
    Console().print(table)
    if options.write:
        former = load(options.write)["sections"].get("memory", {}).get("figures", {}).get("rows", {})
        rows = {form: (former | rows)[form] for form in FORMS if form in former | rows}
        worst = max(abs(row["ratio"] - 1) for row in rows.values())
        record("memory", {"rows": rows}, {"plan_memory_error": worst}, command(), options.write)


def _make_policy(options: argparse.Namespace, directory: Path, device: str) -> RandomPolicy:
    known = SHAPES[options.model]
    text = known.text | {"num_hidden_layers": options.text_layers}
    text |= {"vocab_size": options.vocabulary} if options.vocabulary else {}
    full = [i for i in known.vision["fullatt_block_indexes"] if i < options.vision_layers]
    vision = {"depth": options.vision_layers, "fullatt_block_indexes": full or [options.vision_layers - 1]}
    shape = Shape(options.side, text, known.vision | vision)
    settings = {"min_pixels": MIN_PIXELS, "max_pixels": MAX_PIXELS, "max_context_tokens": 10240}
    settings |= {
        "gradient_checkpointing": options.checkpointed,
        "tuning": Tuning(options.freeze, LoRA() if options.lora else None),
    }
    return RandomPolicy(shape, directory, device, torch.float32, attn_implementation=GROUPED_SDPA, **settings)


def _make_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.set_defaults(rounds=1)
    parser.add_argument(
        "--form", action="append", choices=FORMS, help="what to measure; may be repeated; all; others stay"
    )
    parser.add_argument("--alone", action="store_true", help="measure in this process, as JSON, with what follows")
    parser.add_argument("--model", choices=[name for name in SHAPES if "fullatt_block_indexes" in SHAPES[name].vision])
    parser.add_argument("--text-layers", type=int, default=2)
    parser.add_argument("--vision-layers", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, help="tokens; the model's")
    parser.add_argument("--freeze", nargs="*", default=[], help="parts that do not learn")
    parser.add_argument("--lora", action="store_true", help="adapters learn, of rank 32 on all linear layers but these")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda: tensors at their peak")
    parser.add_argument("--checkpointed", action="store_true")
    parser.add_argument("--no-reference", action="store_false", dest="reference")
    parser.add_argument("--prompts", type=int, default=4, help="N, in two updates")
    parser.add_argument("--group", type=int, default=4, help="G")
    parser.add_argument("--tokens", type=int, default=32, help="T")
    parser.add_argument("--side", type=int, default=512, help="of a square image, pixels")
    return parser


if __name__ == "__main__":
    main()
