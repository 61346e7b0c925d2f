"""The cost model of ``visplay plan`` against measured stages: fitted to some, compared with others.

``python -m benchmarks.costs`` times rollouts, votes, updates and loads of weights on models of several widths with
other numbers of images, groups, lengths and micro-batches; all take turns. Rates are fitted to the cases that are not
held out (``visplay.planning.costs``); those that are differ in the model, or in what they do. The fastest round counts,
as whatever else a machine does only adds. On a CPU one thread works, and its own seconds count, so that other processes
disturb little. ``--rates FILE`` writes what ``visplay plan --rates FILE`` takes.

A case of sampling is images x questions x completions x tokens, of training images x 1 x completions x tokens. Figures:
``rows``, for each case its ``seconds``, ``planned`` and ``measured / planned``; ``rates`` by kind.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls

from benchmarks.measure import Spread, alternate
from benchmarks.models import SHAPES, RandomPolicy, make_policy
from benchmarks.results import RESULTS, load, make_parser, parse, publish
from benchmarks.rollout import make_prompts
from benchmarks.workload import DTYPES, Size, autocast, ban_stops, make_batch, make_update
from visplay.callbacks import EngineSettings, RolloutEngine, TransformersRollout, VLLMRollout
from visplay.modules import Qwen2_5_VL
from visplay.planning.activations import Precision
from visplay.planning.costs.cost_model import Rates, Work
from visplay.planning.costs.stage_work import EngineMemory, Learned, Sampled, load_work, sampling_work, update_work
from visplay.planning.memory import Shape, Training
from visplay.planning.shapes import build_empty, measure_shape
from visplay.types import Sampling

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WITH_VLLM = "sampling, vLLM", "loading"
FILED = {"sampling": "sampling, vLLM", "training": "training", "loading": "loading"}
"""What a file of rates has, by the kind that it is of."""
VLLM_BLOCK_TOKENS = 16 if DEVICE == "cuda" else 128
"""Of vLLM's cache, which prompts share in whole blocks."""
SLOTS = 128
"""Sequences that an engine decodes at once."""


@dataclass(frozen=True)
class Case:
    """A stage that is measured.

    Args:
        kind: "sampling" and "sampling, vLLM" draw completions, "training" is an update, "loading" brings weights into
            vLLM.
        model: One of ``SHAPES``.
        images: N.
        questions: About each image; several are as in a vote.
        group: Completions of each question.
        tokens: Of a completion.
        micro_batch_tokens: Most tokens of a micro-batch.
        held_out: Whether rates are not fitted to it.
    """

    kind: str
    model: str
    images: int = 1
    questions: int = 1
    group: int = 8
    tokens: int = 32
    micro_batch_tokens: int = 16384
    held_out: bool = False

    def __str__(self) -> str:
        if self.kind == "loading":
            return f"{self.kind}, {self.model}"
        text = f"{self.kind}, {self.model}: {self.images} x {self.questions} x {self.group} x {self.tokens}"
        return f"{text} by {self.micro_batch_tokens}" if self.micro_batch_tokens != Case.micro_batch_tokens else text


def _sampling(kind: str) -> list[Case]:
    return [
        Case(kind, "8m", images=4, group=8, tokens=32),
        Case(kind, "8m", images=12, group=8, tokens=64),
        Case(kind, "8m", images=1, questions=8, group=10, tokens=16),
        Case(kind, "8m", images=2, group=4, tokens=128),
        Case(kind, "20m", images=2, group=8, tokens=32),
        Case(kind, "20m", images=8, group=8, tokens=16),
        Case(kind, "20m", images=2, questions=4, group=5, tokens=32),
        Case(kind, "100m", images=1, group=8, tokens=16),
        Case(kind, "100m", images=4, group=8, tokens=16),
        Case(kind, "100m", images=1, questions=4, group=5, tokens=16),
        Case(kind, "20m", images=4, group=16, tokens=64, held_out=True),
        Case(kind, "20m", images=1, questions=8, group=10, tokens=16, held_out=True),
        Case(kind, "40m", images=4, group=8, tokens=32, held_out=True),
        Case(kind, "40m", images=1, questions=8, group=10, tokens=16, held_out=True),
    ]


def _training() -> list[Case]:
    kind = "training"
    return [
        Case(kind, "8m", images=1, group=4, tokens=64),
        Case(kind, "8m", images=4, group=8, tokens=64),
        Case(kind, "8m", images=4, group=8, tokens=64, micro_batch_tokens=1024),
        Case(kind, "8m", images=1, group=8, tokens=256, micro_batch_tokens=1024),
        Case(kind, "20m", images=1, group=8, tokens=16),
        Case(kind, "20m", images=1, group=8, tokens=128),
        Case(kind, "20m", images=4, group=4, tokens=32, micro_batch_tokens=512),
        Case(kind, "100m", images=1, group=2, tokens=16),
        Case(kind, "100m", images=1, group=8, tokens=32),
        Case(kind, "20m", images=2, group=8, tokens=64, held_out=True),
        Case(kind, "40m", images=1, group=8, tokens=64, held_out=True),
        Case(kind, "40m", images=3, group=4, tokens=48, micro_batch_tokens=768, held_out=True),
        Case(kind, "100m", images=2, group=4, tokens=64, micro_batch_tokens=1024, held_out=True),
    ]


CASES = {
    str(case): case
    for case in [
        *_sampling("sampling"),
        *_training(),
        *_sampling("sampling, vLLM"),
        Case("sampling, vLLM", "40m", images=2, questions=4, group=6, tokens=24, held_out=True),
        *(Case("loading", model, held_out=model == "40m") for model in ("8m", "20m", "40m", "100m")),
    ]
}


def count_work(case: Case, shape: Shape, lengths: Mapping[str, int], compute_bytes: int) -> Work:
    """The work of a case, as ``visplay plan`` counts it.

    Args:
        case: What is measured.
        shape: Of its model.
        lengths: Tokens of its prompts; see ``read_lengths``.
        compute_bytes: Of a number in the precision that is computed in.
    """
    if case.kind == "loading":
        return load_work(shape, compute_bytes)
    shared, own, patches = lengths["shared"], lengths["own"], lengths["image"] * shape.patches_per_token
    if case.kind == "training":
        learned = Learned(
            prompts=case.images,
            patches=patches,
            prompt_tokens=shared + own,
            group=case.group,
            tokens=case.tokens,
            updates=1,
            scores=0,
            tokens_per_micro_batch=case.micro_batch_tokens,
        )
        return update_work(shape, learned, Training(Precision(compute_bytes, compute_bytes)))
    sampled = Sampled(
        images=case.images,
        patches=patches,
        prompts=case.images * case.questions,
        shared_tokens=shared,
        own_tokens=own,
        samples=case.group,
        tokens=case.tokens,
        slots=SLOTS // case.group * case.group,
    )
    token = 2 * compute_bytes * shape.text.keys * shape.text_layers
    block = VLLM_BLOCK_TOKENS if case.kind in WITH_VLLM else 1
    return sampling_work(shape, sampled, EngineMemory(compute_bytes, token, block))


def fit_rates(work: Sequence[Work], seconds: Sequence[float]) -> Rates:
    """The rates with the least squares of relative errors, none of them negative.

    Args:
        work: Of at least three measured stages.
        seconds: That each took.

    Raises:
        ValueError: There are fewer than three.

    Example:
        >>> rates = fit_rates([Work(1e9), Work(2e9, 1e6), Work(1e9, 4e6, 10)], [1.0, 2.5, 4.0])
        >>> round(rates.operations), round(rates.moved_bytes), round(rates.layers)
        (1000000000, 2000000, 10)
    """
    if len(work) < 3:
        raise ValueError(f"work: three rates need at least three measured stages, got {len(work)}")
    rows = np.array([[each.operations, each.moved_bytes, each.layers] for each in work]) / np.array(seconds)[:, None]
    scale = np.where(rows.any(0), rows.max(0), 1.0)  # columns of like size, for the solver's tolerance
    inverse, _ = nnls(rows / scale, np.ones(len(work)))
    return Rates(*(float(s / i) if i else float("inf") for i, s in zip(inverse, scale, strict=True)))


def fit(work: Mapping[str, Work], seconds: Mapping[str, float]) -> dict[str, Rates]:
    """The rates of each kind, of the cases that are not held out."""
    kinds = dict.fromkeys(CASES[name].kind for name in work)
    fitted = {k: [n for n in work if CASES[n].kind == k and not CASES[n].held_out] for k in kinds}
    return {kind: fit_rates([work[n] for n in names], [seconds[n] for n in names]) for kind, names in fitted.items()}


def read_shape(model: str, directory: Path) -> Shape:
    """The sizes of a named model, without weights."""
    policy = RandomPolicy(SHAPES[model], directory, "meta", torch.float32, max_context_tokens=1024)
    return measure_shape(build_empty(policy, policy.model.config))


def read_lengths(case: Case, policy: Qwen2_5_VL) -> dict[str, int]:
    """Tokens that prompts about an image begin with together, the image's ``image`` among them, and ``own`` ones."""
    prompts = make_prompts(policy, SHAPES[case.model].side, 1, case.questions)
    expanded = [policy.expand(prompt) for prompt in prompts]
    whole = len(expanded[0])
    different = (i for i, column in enumerate(zip(*expanded, strict=False)) if len(set(column)) > 1)
    shared = next(different, whole)
    return {"shared": shared, "own": whole - shared, "image": policy.image_tokens(prompts[0].images[0])}


def make_part(
    case: Case, policy: Qwen2_5_VL, engines: Mapping[str, RolloutEngine], dtype: torch.dtype
) -> Callable[[], object]:
    """What is timed."""
    side = SHAPES[case.model].side
    if case.kind == "training":
        batch = make_batch(policy, Size(case.images, case.group, case.tokens, side))
        return make_update(policy, batch, dtype, case.micro_batch_tokens)
    engine = engines[case.kind]
    if case.kind == "loading":

        def load_again() -> None:
            policy.version += 1
            engine.load(policy)

        return load_again
    prompts, sampling = make_prompts(policy, side, case.images, case.questions), Sampling(case.group, case.tokens)

    def draw() -> None:
        with autocast(policy, dtype):
            engine.generate(policy, prompts, sampling)

    return draw


def measure(cases: Sequence[Case], dtype: str, rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds and lengths of each case; those without vLLM all take turns, those with it by model, as it has one."""
    clock = time.perf_counter
    if DEVICE == "cpu":
        torch.set_num_threads(1)
        clock = time.process_time
    rows: dict[str, dict[str, Any]] = {}
    apart = {case: case.model if case.kind in WITH_VLLM else "" for case in cases}
    for group in dict.fromkeys(apart.values()):
        with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
            vllm = VLLMRollout(EngineSettings(dtype, cache_gib=2.0, max_sequences=SLOTS))
            stack.callback(vllm.close)
            engines = dict.fromkeys(WITH_VLLM, vllm) | {"sampling": TransformersRollout(SLOTS)}
            of_group = [case for case in cases if apart[case] == group]
            models = dict.fromkeys(case.model for case in of_group)
            policies = {model: make_policy(model, Path(directory), DEVICE) for model in models}
            for policy in policies.values():
                ban_stops(policy)
            parts = {c: make_part(c, policies[c.model], engines, DTYPES[dtype]) for c in of_group}
            for case, seconds in alternate(parts, rounds, clock).items():
                rows[str(case)] = {"seconds": seconds, **read_lengths(case, policies[case.model])}
    return {str(case): rows[str(case)] for case in cases}


def compare(rows: Mapping[str, Mapping[str, Any]], dtype: str) -> tuple[dict[str, dict[str, Any]], dict[str, Rates]]:
    """Measured rows with what the model plans for them, and the rates that it does so with."""
    with tempfile.TemporaryDirectory() as directory:
        shapes = {model: read_shape(model, Path(directory, model)) for model in {CASES[name].model for name in rows}}
    work = {
        name: count_work(CASES[name], shapes[CASES[name].model], row, DTYPES[dtype].itemsize)
        for name, row in rows.items()
    }
    rates = fit(work, {name: row["seconds"].low for name, row in rows.items()})
    compared = {}
    for name, row in rows.items():
        planned = rates[CASES[name].kind].seconds(work[name])
        compared[name] = {
            "held_out": CASES[name].held_out,
            **row,
            "planned": planned,
            "measured / planned": row["seconds"].low / planned,
        }
    return compared, rates


def main() -> None:
    """Measure, print, and record where it is asked for; recorded cases of other kinds in the same precision stay."""
    parser = make_parser(__doc__)
    parser.set_defaults(rounds=3)
    kinds = list(dict.fromkeys(case.kind for case in CASES.values()))
    parser.add_argument("--kind", action="append", choices=kinds, help="may be repeated; all; others stay")
    parser.add_argument("--rates", type=Path, metavar="FILE", help="where rates are written; of vLLM's sampling")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="to compute in")
    options = parse(parser, least_rounds=3)
    cases = [case for case in CASES.values() if case.kind in (options.kind or kinds)]
    measured = measure(cases, options.dtype, options.rounds)
    recorded = load(options.write or RESULTS)["sections"].get("costs", {}).get("figures", {})
    former = recorded["rows"] if recorded.get("dtype") == options.dtype else {}
    rows = {name: {**row, "seconds": Spread(**row["seconds"])} for name, row in former.items()} | measured
    compared, rates = compare({name: rows[name] for name in CASES if name in rows}, options.dtype)
    if options.rates:
        filed = {name: asdict(rates[kind]) for name, kind in FILED.items()}
        options.rates.write_text(json.dumps(filed, indent=2) + "\n")
    worst = max(abs(row["measured / planned"] - 1) for row in compared.values() if row["held_out"])
    finite = {kind: {n: v for n, v in asdict(each).items() if isfinite(v)} for kind, each in rates.items()}
    figures = {"rows": compared, "rates": finite, "dtype": options.dtype}
    publish("costs", figures, {"plan_seconds_error": worst}, options)


if __name__ == "__main__":
    main()
