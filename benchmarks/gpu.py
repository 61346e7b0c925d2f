"""A large model with random weights on CUDA: seconds, tokens per second, fraction of the peak, and peak memory.

``python -m benchmarks.gpu --model 3b --model 7b``. Weights and optimizer states are in ``--weights``; with float32 the
update computes in bfloat16 by autocast, as a training run does. Each update is measured packed (``grouped_sdpa``),
packed with gradient checkpointing, and as the fallback of padded rows (``sdpa``), in turns. Tokens per second count the
tokens of prompts once and those of answers; the fraction of the peak is needed operations (``benchmarks.flops``) over
seconds and over the fastest measured product. A path that runs out of memory has none of these but ``error``. With
``--vllm`` the rollout is measured with ``VLLMRollout`` as well.

Figures: for each model ``updates`` (rows by path), ``rollout`` (tokens per second by engine), ``peak`` and ``shape``.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.flops import measure_peak, model_products, packed_work, update_flops
from benchmarks.measure import Spread, alternate
from benchmarks.models import SHAPES, RandomPolicy
from benchmarks.results import make_parser, parse, publish
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
from visplay.modules import Qwen2_5_VL
from visplay.modules.policy.attention import GROUPED_SDPA
from visplay.types import Sampling

COMPUTE = torch.bfloat16
CONTEXT = 4096
PATHS = {"packed": (GROUPED_SDPA, False), "packed, checkpointed": (GROUPED_SDPA, True), "fallback": ("sdpa", False)}


@contextmanager
def on_path(policy: Qwen2_5_VL, path: str) -> Iterator[None]:
    """Train on one of ``PATHS`` within."""
    attention, checkpointed = PATHS[path]
    policy.model.set_attn_implementation(attention)
    if checkpointed:
        policy.model.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        yield
    finally:
        policy.model.gradient_checkpointing_disable()


def measure_updates(policy: Qwen2_5_VL, size: Size, peak: float, rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds, tokens per second, fraction of the peak and peak memory of an update on each path."""
    batch = make_batch(policy, size)
    work = packed_work(policy, batch)
    tokens, flops = int(batch.prompt_tokens.sum() + batch.mask.sum()), update_flops(policy.model.config, work)
    update = make_update(policy, batch, COMPUTE)
    rows: dict[str, dict[str, Any]] = {}

    def run(path: str) -> None:
        with on_path(policy, path):
            update()

    for path in PATHS:
        rows[path] = _try_memory(lambda path=path: run(path))
        policy.zero_grad(set_to_none=True)
    parts = {path: lambda path=path: run(path) for path, row in rows.items() if "error" not in row}
    for path, seconds in alternate(parts, rounds).items():
        mfu = flops / seconds.median / peak
        rows[path] |= {"seconds": seconds, "tokens_per_second": seconds.rate(tokens), "mfu": mfu}
    return rows


def measure_rollout(policy: Qwen2_5_VL, size: Size, vllm: bool, rounds: int) -> dict[str, Spread]:
    """Tokens per second of the engines and of ``generate``; no completion ends before its limit."""
    ban_stops(policy)
    prompts, sampling = make_prompts(policy, size), Sampling(size.group, size.tokens)
    engines: dict[str, RolloutEngine] = {"TransformersRollout": TransformersRollout()}
    if vllm:
        policy.save(policy.path)  # it starts from weights on disk
        engines["VLLMRollout"] = VLLMRollout(EngineSettings(cache_gib=8.0, dtype="bfloat16"))
    parts = {name: lambda engine=engine: engine.generate(policy, prompts, sampling) for name, engine in engines.items()}
    parts["generate"] = lambda: plain_generate(policy, prompts, size.group, size.tokens, at_least=size.tokens)
    policy.eval()
    policy.model.set_attn_implementation("sdpa")
    with autocast(policy, COMPUTE):
        seconds = alternate(parts, rounds)
    for engine in engines.values():
        engine.close()
    return {name: each.rate(size.prompts * size.group * size.tokens) for name, each in seconds.items()}


def measure(name: str, options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """All figures of one model."""
    size = Size(options.prompts, options.group, options.tokens, SHAPES[name].side)
    weights = DTYPES[options.weights]
    settings = {"attn_implementation": GROUPED_SDPA, "max_context_tokens": CONTEXT}
    policy = RandomPolicy(SHAPES[name], directory / name, options.device, weights, **settings)
    products = [(cube,) * 3 for cube in options.cubes] + model_products(policy.model, options.cubes[0])
    peak = measure_peak(products, COMPUTE, options.device, options.rounds)
    updates = measure_updates(policy.train(), size, max(peak.values()), options.rounds)
    shape = {"N": size.prompts, "G": size.group, "T": size.tokens, "side": size.side, "weights": options.weights}
    shape["parameters"] = sum(weight.numel() for weight in policy.parameters())
    policy.requires_grad_(False)
    rollout = measure_rollout(policy, size, options.vllm, options.rounds)
    return {"updates": updates, "rollout": rollout, "peak": peak, "shape": shape}


def main() -> None:
    """Measure, print, and record where it is asked for."""
    options = parse(_make_parser())
    models = {}
    with tempfile.TemporaryDirectory() as directory:
        for name in options.model or ["3b", "7b"]:
            models[name] = measure(name, options, Path(directory))
            _free()
    publish("gpu", {"models": models}, {}, options)


def _make_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument("--model", action="append", choices=SHAPES, help="a shape; may be repeated; 3b and 7b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--weights", choices=DTYPES, default="bfloat16", help="precision of weights and AdamW")
    parser.add_argument("--prompts", type=int, default=8, help="N")
    parser.add_argument("--group", type=int, default=8, help="G")
    parser.add_argument("--tokens", type=int, default=256, help="T")
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
