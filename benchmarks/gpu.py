"""Models of the shapes of Qwen2.5-VL with random weights on CUDA: part by part, against the peak and the plan.

``python -m benchmarks.gpu --model 3b --model 7b``; ``benchmarks/device.sh`` takes it to a machine that reaches no
package registry. With ``--seconds`` each part has a limit, and fewer rounds if it would pass it. Its figures are
recorded when it is over; one that fails or is cut off has ``error`` besides what it found, and the others go on.

- ``plan``: a step with float32 weights and autocast, of 7B with adapters: its peak memory as ``visplay plan`` counts
  it, and as it is.
- ``peak``: operations a second of products in bfloat16, square ones and the model's own.
- ``updates``: seconds, tokens per second, fraction of the fastest product (``mfu``) and peak memory, packed
  (``grouped_sdpa``), packed with gradient checkpointing, and as the fallback of padded rows (``sdpa``), in turns.
  Tokens of prompts count once; needed operations are those of ``benchmarks.flops``.
- ``step``: seconds of a learner's step with ``TransformersRollout``, by stage: rollouts; an update in four, with a
  frozen reference; and K votes on G questions about some of its images. ``tokens_per_second`` is of all but the votes
  and counts the prompt of every sequence, as EasyR1's does; ``images_per_hour`` is of all stages.
- ``launches``: of an update and of sampling 16 tokens, the fraction of the time in which the device works (``busy``),
  the number of kernels, and the longest.
- ``rollout``: sampled tokens per second in bfloat16, by engine; with ``--vllm`` of ``VLLMRollout`` too.

Weights and optimizer states of ``updates`` and ``step`` are in ``--weights``; with float32 they compute in bfloat16 by
autocast, as a training run does. No completion ends before its limit.

Figures: ``tests`` (with ``--tests``: the outcome of those of ``TESTS``), ``models`` (by name: its parts, and
``shape``), and ``goals``. The headline keys are of 3B's shape; that of the plan is of the model it is farthest off.
"""

from __future__ import annotations

import argparse
import gc
import logging
import math
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from torch.optim import AdamW
from torch.profiler import ProfilerActivity

from benchmarks.flops import measure_peak, model_products, packed_work, update_flops
from benchmarks.measure import Spread, alternate, time_call
from benchmarks.memory import ADAPTERS, Form, MadeUp, measure_alone
from benchmarks.models import SHAPES, RandomPolicy
from benchmarks.report import TARGETS, verdict
from benchmarks.results import command, make_parser, parse, publish, record
from benchmarks.workload import (
    DTYPES,
    Size,
    autocast,
    ban_stops,
    make_batch,
    make_prompts,
    make_update,
    plain_generate,
)
from visplay.callbacks import EngineSettings, RolloutEngine, TransformersRollout, VLLMRollout
from visplay.clock import Clock
from visplay.modules import GRPOConfig, Qwen2_5_VL
from visplay.modules.learner.grpo import GRPO
from visplay.modules.learner.mismatch import MismatchConfig
from visplay.modules.policy.attention import GROUPED_SDPA
from visplay.modules.policy.weights.tuning import Tuning
from visplay.tiny import ANSWER
from visplay.types import Completion, Judgement, Prompt, Rollout, Sampling

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[1]
COMPUTE = torch.bfloat16
CONTEXT = 4096
PATHS = {"packed": (GROUPED_SDPA, False), "packed, checkpointed": (GROUPED_SDPA, True), "fallback": ("sdpa", False)}
TESTS = "tests/modules/policy/test_devices.py"
TEST_SECONDS = 80.0
LIMITS = {"plan": 45.0, "peak": 15.0, "updates": 50.0, "step": 110.0, "launches": 30.0, "rollout": 60.0}
"""Most seconds of each part of a model, in this order, where ``--seconds`` limits all of them."""
ADAPTED = ("7b", "mimo")
"""Models whose float32 weights and optimizer states no single device has room for: planned with adapters."""
KERNELS_SHOWN = 8
GOALS, GOALS_OF = tuple(name for name in TARGETS if name.startswith("gpu_")), "3b"


@contextmanager
def on_path(policy: Qwen2_5_VL, path: str) -> Iterator[None]:
    """Train on one of ``PATHS`` within; the vision tower attends as it did."""
    attention, checkpointed = PATHS[path]
    policy.text_model.set_attn_implementation(attention)
    if checkpointed:
        policy.model.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        yield
    finally:
        policy.model.gradient_checkpointing_disable()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise ``TimeoutError`` in the main thread once the seconds are over; infinitely many never are."""
    if not math.isfinite(seconds):
        yield
        return

    def stop(*_: object) -> None:
        raise TimeoutError(f"longer than {seconds:.0f} s")

    handler = signal.signal(signal.SIGALRM, stop)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *timer)


@dataclass
class Subject:
    """A model that is measured, and what is known of it so far.

    Args:
        name: One of ``SHAPES``.
        options: Of the command line.
        directory: For what engines read.
        figures: By part, and ``shape``.
    """

    name: str
    options: argparse.Namespace
    directory: Path
    figures: dict[str, Any] = field(default_factory=dict)
    _policy: RandomPolicy | None = None

    def __post_init__(self) -> None:
        """Say what is measured."""
        size, options = self.size, self.options
        shape = {"N": size.prompts, "G": size.group, "T": size.tokens, "K": options.votes, "side": size.side}
        shape |= {"weights": self.weights, "tokens_per_micro_batch": options.tokens_per_micro_batch}
        self.figures["shape"] = shape | {"planned with": "adapters" if self.name in ADAPTED else "all weights"}

    @property
    def size(self) -> Size:
        """What an update learns from."""
        return Size(self.options.prompts, self.options.group, self.options.tokens, SHAPES[self.name].side)

    @property
    def weights(self) -> str:
        """Precision of weights and AdamW."""
        return self.options.weights or ("bfloat16" if self.name in ADAPTED else "float32")

    @property
    def policy(self) -> RandomPolicy:
        """The model, drawn when it is first asked for."""
        if self._policy is None:
            settings = {"attn_implementation": GROUPED_SDPA, "max_context_tokens": CONTEXT}
            where, dtype = self.directory / self.name, DTYPES[self.weights]
            self._policy = RandomPolicy(SHAPES[self.name], where, self.options.device, dtype, **settings)
            self._policy.train()
        return self._policy


def measure_plan(subject: Subject, limit: float, found: dict[str, Any]) -> None:
    """Peak memory of a step as it is planned, and as it is."""
    name, adapted = subject.name, subject.name in ADAPTED
    tuning = ADAPTERS if adapted else Tuning()
    form = Form(name, subject.size, None, None, tuning=tuning, reference=not adapted, dtype="bfloat16")
    found |= measure_alone(form, subject.options.device)


def measure_products(subject: Subject, limit: float, found: dict[str, Any]) -> None:
    """Operations a second of each product."""
    options = subject.options
    products = [(cube,) * 3 for cube in options.cubes] + model_products(subject.policy.model, options.cubes[0])
    found |= measure_peak(products, COMPUTE, options.device, options.rounds)


def measure_updates(subject: Subject, limit: float, found: dict[str, Any]) -> None:
    """Seconds, tokens per second, fraction of the peak and peak memory of an update on each path."""
    policy, end = subject.policy, time.perf_counter() + limit
    batch = make_batch(policy, subject.size)
    work = packed_work(policy, batch)
    tokens, flops = int(batch.prompt_tokens.sum() + batch.mask.sum()), update_flops(policy.model.config, work)
    update = make_update(policy, batch, COMPUTE, subject.options.tokens_per_micro_batch)
    peak = subject.figures.get("peak", {"error": "not measured"})
    calls: Counter[str] = Counter()

    def run(path: str) -> None:
        calls[path] += 1
        with on_path(policy, path):
            update()

    for path in PATHS:
        found[path] = _try_memory(lambda path=path: run(path))
        policy.zero_grad(set_to_none=True)
    parts = {path: lambda path=path: run(path) for path, row in found.items() if "error" not in row}
    calls.clear()
    for path, seconds in alternate(parts, subject.options.rounds, limit=0.8 * (end - time.perf_counter())).items():
        found[path] |= {"seconds": seconds, "rounds": calls[path] - 1, "tokens_per_second": seconds.rate(tokens)}
        if "error" not in peak:
            found[path]["mfu"] = flops / seconds.median / max(peak.values())


class _Sampled(MadeUp):
    """Samples with an engine, and rewards at random after votes on questions about some of the images.

    Args:
        policy: Who samples and learns.
        size: How much.
        votes: K.
        voted: Images whose G questions are voted on.
        clock: Adds up the seconds of the stages.
    """

    def __init__(self, policy: RandomPolicy, size: Size, votes: int, voted: int, clock: Clock) -> None:
        super().__init__(policy, size)
        self.engine, self.votes, self.voted, self.clock = TransformersRollout(), votes, voted, clock

    def rollout(self, items: Any, n: int, seed: int) -> Rollout:
        """G completions of each prompt."""
        prompts = make_prompts(self.vlm, self.size)
        return Rollout(tuple(prompts), tuple(map(tuple, self._sample(prompts, n, seed))))

    def judge(self, items: Any, rollout: Rollout, seed: int) -> Judgement:
        """Random rewards, after the votes."""
        questions = [
            self.vlm.encode(f"{prompt.key}/{i}", ANSWER, *prompt.images, question=f"Where are the {i + 2} red circles?")
            for prompt in rollout.prompts[: self.voted]
            for i in range(self.size.group)
        ]
        with self.clock("votes"):
            self._sample(questions, self.votes, seed)
        return super().judge(items, rollout, seed)

    def _sample(self, prompts: Sequence[Prompt], n: int, seed: int) -> list[list[Completion]]:
        self.vlm.eval()
        try:
            return self.engine.generate(self.vlm, prompts, Sampling(n, self.size.tokens, seed=seed))
        finally:
            self.vlm.train()


def measure_step(subject: Subject, limit: float, found: dict[str, Any]) -> None:
    """Seconds of a step by stage, tokens per second and images per hour; see the module."""
    policy, options, end = subject.policy, subject.options, time.perf_counter() + 0.7 * limit
    size, voted = replace(subject.size, prompts=options.step_prompts), min(options.voted, options.step_prompts)
    stops = policy.banned_token_ids
    ban_stops(policy)
    config = GRPOConfig(
        prompts_per_step=size.prompts,
        prompts_per_update=max(1, size.prompts // 4),
        group_size=size.group,
        max_new_tokens=size.tokens,
        kl_weight=0.01,
        tokens_per_micro_batch=options.tokens_per_micro_batch // 2,  # there is a reference as well
        mismatch=MismatchConfig(stop=False),
    )
    learner, optimizer = GRPO(config, Clock()), AdamW(policy.trained_weights(), lr=0.0, weight_decay=0.0, fused=True)
    sampled = size.prompts * size.group * size.tokens
    tokens = sampled + size.group * sum(map(policy.prompt_tokens, make_prompts(policy, size)))
    path = "packed, checkpointed" if "error" in subject.figures.get("updates", {}).get("packed", {}) else "packed"
    found |= {"path": path, "prompts": size.prompts, "images voted on": voted}
    found["tokens_per_micro_batch"] = config.tokens_per_micro_batch
    stages: list[dict[str, float]] = []

    def step(of: Size) -> None:
        role = _Sampled(policy, of, options.votes, voted, learner.clock)
        call = partial(learner.step, role, range(of.prompts), optimizer, lambda loss: loss.backward(), seed=len(stages))
        whole, row = time_call(call), learner.clock.drain()
        stages.append(row | {"rest": whole - sum(row.values())})

    try:
        with autocast(policy, COMPUTE), on_path(policy, path):
            learner.begin_phase(policy, optimizer)
            step(replace(size, tokens=min(size.tokens, 4)))  # what is made only once is made here
            stages.clear()
            while len(stages) < options.rounds:
                began = time.perf_counter()
                step(size)
                votes = [row["votes"] for row in stages]
                learned = [sum(row.values()) - row["votes"] for row in stages]
                images = [3600 / (s / size.prompts + v / voted) for s, v in zip(learned, votes, strict=True)]
                found |= {
                    "rounds": len(stages),
                    "seconds": {stage: Spread.of([row[stage] for row in stages]) for stage in stages[0]},
                    "tokens_per_second": Spread.of(learned).rate(tokens),
                    "sampled_tokens_per_second": Spread.of([row["rollout"] for row in stages]).rate(sampled),
                    "images_per_hour": Spread.of(images),
                }
                if 2 * time.perf_counter() - began > end:
                    return
    finally:
        if unfinished := learner.clock.drain():
            found["unfinished, seconds"] = unfinished
        learner.end_phase(optimizer)
        policy.banned_token_ids = stops
        policy.zero_grad(set_to_none=True)


def measure_launches(subject: Subject, limit: float, found: dict[str, Any]) -> None:
    """Of an update and of sampling, how much of the time the device works, and what takes most of that."""
    policy, size = subject.policy, subject.size
    sampled = min(size.tokens, 16)
    prompts = make_prompts(policy, size)
    update = make_update(policy, make_batch(policy, size), COMPUTE, subject.options.tokens_per_micro_batch)

    def sample() -> None:
        with autocast(policy, COMPUTE):
            TransformersRollout().generate(policy, prompts, Sampling(size.group, sampled))

    for name, call in {"update": update, "sampling": sample}.items():
        with on_path(policy, "packed"):
            call()
            found[name] = profile_launches(call)
        policy.zero_grad(set_to_none=True)
    found["sampling"]["tokens of a sequence"] = sampled


def profile_launches(call: Callable[[], object]) -> dict[str, Any]:
    """Seconds of a call, fraction of them in which the device worked, its kernels, and seconds of the longest.

    On a CPU kernels are operators. Seconds are measured without the profiler, which slows launches down.
    """
    on_gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]
    seconds = time_call(call)
    with torch.profiler.profile(activities=activities) as profile:
        time_call(call)
    kind = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    rows = [(getattr(event, kind) / 1e6, event.count, event.key) for event in profile.key_averages()]
    rows = sorted((row for row in rows if row[0] > 0), reverse=True)
    longest = {f"{key[:60]}, seconds": time for time, _, key in rows[:KERNELS_SHOWN]}
    busy = sum(time for time, _, _ in rows) / seconds
    return {"seconds": seconds, "busy": busy, "kernels": sum(count for _, count, _ in rows)} | longest


def measure_rollout(subject: Subject, limit: float, found: dict[str, Any]) -> None:
    """Tokens per second of the engines and of ``generate``, all with weights in bfloat16."""
    policy, size, options = subject.policy, subject.size, subject.options
    ban_stops(policy)
    policy.requires_grad_(False).eval()
    for weight in policy.parameters():
        weight.data = weight.data.to(COMPUTE)
    prompts, sampling = make_prompts(policy, size), Sampling(size.group, size.tokens)
    engines: dict[str, RolloutEngine] = {"TransformersRollout": TransformersRollout()}
    if options.vllm:
        policy.save(policy.path)  # it starts from weights on disk
        engines["VLLMRollout"] = VLLMRollout(EngineSettings(cache_gib=8.0, dtype="bfloat16"))
    parts = {name: lambda engine=engine: engine.generate(policy, prompts, sampling) for name, engine in engines.items()}
    parts["generate"] = lambda: plain_generate(policy, prompts, size.group, size.tokens, at_least=size.tokens)
    policy.text_model.set_attn_implementation("sdpa")
    seconds = alternate(parts, options.rounds, limit=0.9 * limit)
    for engine in engines.values():
        engine.close()
    found |= {name: each.rate(size.prompts * size.group * size.tokens) for name, each in seconds.items()}


PARTS: dict[str, Callable[[Subject, float, dict[str, Any]], None]] = {
    "plan": measure_plan,
    "peak": measure_products,
    "updates": measure_updates,
    "step": measure_step,
    "launches": measure_launches,
    "rollout": measure_rollout,
}


def run_tests(device: str, limit: float) -> dict[str, Any]:
    """Outcomes of ``TESTS`` on a device, in a process of its own; a warning is no failure."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory, "tests.xml")
        words = f"-m pytest -p no:cacheprovider -W default -k {device} --junitxml={report} {TESTS}"
        try:
            subprocess.run([sys.executable, *words.split()], cwd=ROOT, timeout=limit)
        except subprocess.TimeoutExpired:
            return {"error": f"longer than {limit:.0f} s"}
        if not report.exists():
            return {"error": "pytest did not come to an end"}
        suite = ElementTree.parse(report).getroot()[0]
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    failed = [case.get("name") for case in suite.iter("testcase") if any(c.tag in ("failure", "error") for c in case)]
    return counts | {"seconds": float(suite.get("time", 0.0)), "failed": failed}


def headline(models: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The keys that were measured: of 3B's shape, and of the plan's worst model."""
    keys: dict[str, float] = {}
    subject = models.get(GOALS_OF, {})
    if mfus := [row["mfu"] for path in PATHS if "mfu" in (row := subject.get("updates", {}).get(path, {}))]:
        keys["gpu_update_mfu"] = max(mfus)
    if "tokens_per_second" in subject.get("step", {}):
        keys["gpu_step_tokens_per_second"] = subject["step"]["tokens_per_second"].median
    if ratios := [model["plan"]["ratio"] for model in models.values() if "ratio" in model.get("plan", {})]:
        keys["gpu_plan_memory_error"] = max(abs(ratio - 1) for ratio in ratios)
    return keys


def goals(keys: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Of each goal its target, whether it is met, and the value if there is one."""
    rows = {name: {"target": TARGETS[name][1], "met": verdict(TARGETS[name][1], keys.get(name))} for name in GOALS}
    return {name: row | ({"value": keys[name]} if name in keys else {}) for name, row in rows.items()}


class Report:
    """Figures so far, recorded anew after every part.

    Args:
        options: Of the command line.
        end: When all must be over, by ``time.perf_counter``.
    """

    def __init__(self, options: argparse.Namespace, end: float) -> None:
        self.options, self.end = options, end
        self.figures: dict[str, Any] = {"models": {}, "goals": goals({})}
        self.keys: dict[str, float] = {}
        self.failed: list[str] = []

    def keep(self, name: str, found: dict[str, Any]) -> None:
        """Record, with the figures of a part that is over."""
        if self.options.device == "cuda":
            self.keys = headline(self.figures["models"])
            self.figures["goals"] = goals(self.keys)
        if self.options.write:
            record("gpu", self.figures, self.keys, command(), self.options.write)
        if failure := found.get("error") or found.get("failed"):
            self.failed.append(name)
            logger.error("%s: %s", name, failure)
        logger.info("%s: over; %.0f s are left", name, self.end - time.perf_counter())


def main() -> None:
    """Measure part by part, record where it is asked for, and print; exit code 1 if a part failed."""
    options = parse(_make_parser())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    report = Report(options, time.perf_counter() + options.seconds)
    if options.tests:
        report.figures["tests"] = run_tests(options.device, min(TEST_SECONDS, options.seconds))
        report.keep("tests", report.figures["tests"])
    with tempfile.TemporaryDirectory() as directory:
        for name in options.model or ["3b", "7b"]:
            subject = Subject(name, options, Path(directory))
            report.figures["models"][name] = subject.figures
            for part in options.part or PARTS:
                measure_part(subject, part, report.end)
                report.keep(f"{name}, {part}", subject.figures[part])
            del subject
            _free()
    publish("gpu", report.figures, report.keys, options)
    if report.failed:
        sys.exit(1)


def measure_part(subject: Subject, part: str, end: float) -> None:
    """Measure a part; one that fails, in whatever way, must not take the others with it.

    Args:
        subject: The model.
        part: One of ``PARTS``.
        end: When all must be over, by ``time.perf_counter``.
    """
    found = subject.figures[part] = {}
    limit = min(LIMITS[part], end - time.perf_counter()) if math.isfinite(end) else math.inf
    if limit <= 1:
        found["error"] = "no time was left"
        return
    try:
        with within(limit):
            PARTS[part](subject, limit, found)
    except Exception as error:
        logger.exception("%s, %s", subject.name, part)
        found["error"] = f"{type(error).__name__}: {error}"[:500]
    _free()


def _make_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument("--model", action="append", choices=SHAPES, help="a shape; may be repeated; 3b and 7b")
    parser.add_argument("--part", action="append", choices=PARTS, help="may be repeated; all")
    parser.add_argument("--tests", action="store_true", help="run the tests that need a GPU before")
    parser.add_argument("--seconds", type=float, default=math.inf, help="most seconds of everything")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--weights", choices=DTYPES, help="precision of weights and AdamW; float32, of 7b bfloat16")
    parser.add_argument("--prompts", type=int, default=8, help="N")
    parser.add_argument("--group", type=int, default=8, help="G")
    parser.add_argument("--tokens", type=int, default=256, help="T")
    parser.add_argument("--votes", type=int, default=10, help="K")
    parser.add_argument("--step-prompts", type=int, default=48, help="N of the step")
    parser.add_argument("--voted", type=int, default=6, help="images whose questions are voted on in it")
    parser.add_argument("--tokens-per-micro-batch", type=int, default=8192, help="as of visplay's grpo")
    parser.add_argument("--cubes", type=int, nargs="+", default=[4096, 8192], help="sides of square products")
    parser.add_argument("--vllm", action="store_true", help="measure VLLMRollout as well")
    return parser


def _try_memory(run: Any) -> dict[str, Any]:
    """Peak memory of a call in GiB, on CUDA, the optimizer's states there already; or that there is not enough."""
    _free()
    try:
        run()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        run()
    except torch.OutOfMemoryError:
        return {"error": "out of memory"}
    return {"peak_gib": torch.cuda.max_memory_allocated() / 2**30} if torch.cuda.is_available() else {}


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
